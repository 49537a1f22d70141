// The kernels as plain loops, compiled once for every instruction set that has nothing better, in an anonymous namespace.
//
// The including file defines first, in the same namespace: `Sum` (the type float sums are made in), `load_half(uint16_t)` and
// `store_half(float)`. Values are read with memcpy, because no pointer is promised to be aligned.

template <class T>
inline T load_as(const T *p)
{
    T value;
    __builtin_memcpy(&value, p, sizeof(T));
    return value;
}
inline float value_of(const float *p) { return load_as(p); }
inline float value_of(const uint16_t *p) { return load_half(load_as(p)); }

template <class T>
[[maybe_unused]] float plain_l2(const T *a, const T *b, size_t n)
{
    Sum sum = 0;
    for (size_t i = 0; i < n; i++) {
        const Sum difference = static_cast<Sum>(value_of(a + i)) - value_of(b + i);
        sum += difference * difference;
    }
    return static_cast<float>(sum);
}

template <class T>
[[maybe_unused]] float plain_ip(const T *a, const T *b, size_t n)
{
    Sum sum = 0;
    for (size_t i = 0; i < n; i++) sum += static_cast<Sum>(value_of(a + i)) * value_of(b + i);
    return static_cast<float>(sum);
}

template <class T>
[[maybe_unused]] float plain_l1(const T *a, const T *b, size_t n)
{
    Sum sum = 0;
    for (size_t i = 0; i < n; i++) {
        const Sum difference = static_cast<Sum>(value_of(a + i)) - value_of(b + i);
        sum += difference < 0 ? -difference : difference;
    }
    return static_cast<float>(sum);
}

[[maybe_unused]] void plain_f16_to_f32(const uint16_t *in, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const float value = value_of(in + i);
        __builtin_memcpy(out + i, &value, sizeof value);
    }
}

[[maybe_unused]] void plain_f32_to_f16(const float *in, uint16_t *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const uint16_t half = store_half(value_of(in + i));
        __builtin_memcpy(out + i, &half, sizeof half);
    }
}

inline uint64_t load_word(const uint8_t *p, size_t bytes)
{
    uint64_t word = 0;
    __builtin_memcpy(&word, p, bytes);
    return word;
}

[[maybe_unused]] uint64_t plain_hamming(const uint8_t *a, const uint8_t *b, size_t bytes)
{
    uint64_t count = 0;
    size_t i = 0;
    for (; i + 8 <= bytes; i += 8) count += __builtin_popcountll(load_word(a + i, 8) ^ load_word(b + i, 8));
    for (; i < bytes; i++) count += __builtin_popcountll(a[i] ^ b[i]);
    return count;
}

[[maybe_unused]] void plain_and_or_count(const uint8_t *a, const uint8_t *b, size_t bytes, uint64_t *and_count, uint64_t *or_count)
{
    uint64_t both = 0, any = 0;
    size_t i = 0;
    for (; i + 8 <= bytes; i += 8) {
        const uint64_t x = load_word(a + i, 8), y = load_word(b + i, 8);
        both += __builtin_popcountll(x & y);
        any += __builtin_popcountll(x | y);
    }
    for (; i < bytes; i++) {
        both += __builtin_popcountll(a[i] & b[i]);
        any += __builtin_popcountll(a[i] | b[i]);
    }
    *and_count = both;
    *or_count = any;
}

[[maybe_unused]] int64_t plain_dot_u8_s16(const uint8_t *codes, const int16_t *q, size_t n)
{
    int64_t sum = 0;
    for (size_t i = 0; i < n; i++) sum += static_cast<int32_t>(codes[i]) * load_as(q + i);
    return sum;
}

[[maybe_unused]] int64_t plain_dot_u8_u8(const uint8_t *a, const uint8_t *b, size_t n)
{
    int64_t sum = 0;
    for (size_t i = 0; i < n; i++) sum += static_cast<int32_t>(a[i]) * b[i];
    return sum;
}

[[maybe_unused]] int64_t plain_dot_u4_s16(const uint8_t *codes, const int16_t *q, size_t n)
{
    int64_t sum = 0;
    for (size_t block = 0; block * 32 < n; block++, codes += 16, q += 32) {
        int32_t part = 0;
        for (size_t i = 0; i < 16; i++) part += (codes[i] & 15) * load_as(q + i) + (codes[i] >> 4) * load_as(q + 16 + i);
        sum += part;
    }
    return sum;
}

[[maybe_unused]] int64_t plain_dot_u4_u4(const uint8_t *a, const uint8_t *b, size_t n)
{
    int64_t sum = 0;
    for (size_t block = 0; block * 32 < n; block++, a += 16, b += 16) {
        int32_t part = 0;
        for (size_t i = 0; i < 16; i++) part += (a[i] & 15) * (b[i] & 15) + (a[i] >> 4) * (b[i] >> 4);
        sum += part;
    }
    return sum;
}

[[maybe_unused]] void plain_min_max(const float *x, size_t n, float *min, float *max)
{
    float low = n ? value_of(x) : 0, high = low;
    for (size_t i = 1; i < n; i++) {
        const float value = value_of(x + i);
        low = value < low ? value : low;
        high = value > high ? value : high;
    }
    *min = low;
    *max = high;
}

[[maybe_unused]] void plain_quantize_u8(const float *x, size_t n, float bias, float inverse_step, int levels, uint8_t *codes)
{
    const float top = static_cast<float>(levels);
    for (size_t i = 0; i < n; i++) {
        float value = (value_of(x + i) - bias) * inverse_step;
        value = value > 0 ? value : 0;
        value = value < top ? value : top;
        codes[i] = static_cast<uint8_t>(__builtin_lrintf(value));  // the default rounding mode: half to even
    }
}
