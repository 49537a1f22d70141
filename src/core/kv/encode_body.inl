// The encoder of a plane, compiled once for every instruction set, in an anonymous namespace. The including file defines first
//   kVector                              lanes of its vectors: 4, 8 or 16
//   load_half(uint16_t), store_half(float)
//   widen(const uint16_t *, float *)     kLanes finite halves
// and includes core/kv/encode.h. Vectors are those of the compiler (vector_size), so the loops here are the same for all.
//
// A block is kLanes tokens: x[dim][lane], so that whatever is done to a token is one vector operation for several. The lanes of a
// last block that have no token hold zeros.

using Floats = float __attribute__((vector_size(4 * kVector)));
using Ints = int32_t __attribute__((vector_size(4 * kVector)));
using Codes = uint8_t __attribute__((vector_size(kVector)));

constexpr float kHalfMost = 65504;
constexpr float kRounder = 12582912;  // 1.5 * 2^23: adding it rounds to a whole number, half to even

struct Block {
    int first = 0, tokens = 0;  // tokens of the plane in this block
};

inline Floats load(const float *p)
{
    Floats value;
    __builtin_memcpy(&value, p, sizeof value);
    return value;
}
inline void store(Floats value, float *p) { __builtin_memcpy(p, &value, sizeof value); }
inline Floats all(float value) { return value - Floats{}; }
inline Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
inline Floats magnitude(Floats value) { return (Floats)((Ints)value & 0x7FFFFFFF); }
inline void store_codes(Ints value, uint8_t *p)
{
    const Codes codes = __builtin_convertvector(value, Codes);
    __builtin_memcpy(p, &codes, sizeof codes);
}
// To the nearest whole number, half to even; value within 0..255.
inline Ints rounded(Floats value) { return (Ints)(value + kRounder) & 0xFF; }

inline uint16_t half_at(const uint16_t *p)
{
    uint16_t half;
    __builtin_memcpy(&half, p, sizeof half);
    return half;
}
inline void put_word(uint8_t *plane, size_t index, uint32_t word) { __builtin_memcpy(plane + 4 * index, &word, sizeof word); }
inline uint32_t get_word(const uint8_t *p)
{
    uint32_t word;
    __builtin_memcpy(&word, p, sizeof word);
    return word;
}

// Halves are turned to [dim][lane] first, a few dims at a time, and widened by rows.
void load_block(const PlaneJob &job, Block block)
{
    constexpr int kDims = 32;
    uint16_t turned[kDims][kLanes] = {};
    for (int base = 0; base < job.dim; base += kDims) {
        const int count = job.dim - base < kDims ? job.dim - base : kDims;
        for (int t = 0; t < block.tokens; ++t) {
            const uint16_t *row = job.data + static_cast<size_t>(block.first + t) * job.stride + base;
            for (int d = 0; d < count; ++d) turned[d][t] = half_at(row + d);
        }
        for (int d = 0; d < count; ++d) widen(turned[d], job.x + (base + d) * kLanes);
    }
    for (int i = 0; i < job.mean_count; ++i) {
        float *channel = job.x + job.means[i].channel * kLanes;
        const float mean = load_half(job.means[i].value);
        for (int t = 0; t < block.tokens; ++t) channel[t] -= mean;
    }
}

// kLanes dims at a time, token by token: the same order of sums for every width of vectors.
void measure_plane(const PlaneJob &job, PlaneSums *out)
{
    for (int d = 0; d < job.dim; d += kLanes) {
        const int count = job.dim - d < kLanes ? job.dim - d : kLanes;
        uint16_t halves[kLanes] = {};
        float x[kLanes];
        Floats sum[kLanes / kVector] = {}, square[kLanes / kVector] = {}, most[kLanes / kVector] = {};
        for (int t = 0; t < job.tokens; ++t) {
            const uint16_t *row = job.data + static_cast<size_t>(t) * job.stride + d;
            if (count < kLanes) {
                __builtin_memcpy(halves, row, static_cast<size_t>(count) * sizeof *halves);
                row = halves;
            }
            widen(row, x);
            for (int i = 0; i < kLanes / kVector; ++i) {
                const Floats value = load(x + i * kVector);
                sum[i] += value;
                square[i] += value * value;
                most[i] = larger(magnitude(value), most[i]);
            }
        }
        for (int i = 0; i < kLanes / kVector; ++i) {
            store(sum[i], out->sum + d + i * kVector);
            store(square[i], out->square + d + i * kVector);
            store(most[i], out->most + d + i * kVector);
        }
    }
}

// ---- words -----------------------------------------------------------------------------------------------------------------

// Codes without their lowest `drop` bits, `kBits` of them, into K words: along the dims.
template <int kBits>
void pack_dims(const PlaneJob &job, Block block, int drop, uint8_t *plane)
{
    constexpr int kWidth = 32 / kBits;
    constexpr uint32_t kMask = (1u << kBits) - 1;
    for (int base = 0, group = 0; base < job.dim; base += kWidth, ++group) {
        const int count = job.dim - base < kWidth ? job.dim - base : kWidth;
        uint32_t words[kLanes] = {};
        for (int e = 0; e < count; ++e) {
            const uint8_t *codes = job.bytes + (base + e) * kLanes;
            const int shift = 8 * (e % 4) + kBits * (e / 4);
            for (int t = 0; t < kLanes; ++t) words[t] |= ((static_cast<uint32_t>(codes[t]) >> drop) & kMask) << shift;
        }
        uint8_t *out =
            plane + 4 * (static_cast<size_t>(group) * static_cast<size_t>(job.tokens) + static_cast<size_t>(block.first));
        __builtin_memcpy(out, words, 4 * static_cast<size_t>(block.tokens));
    }
}

// The same into V words: along the tokens. A block holds whole words of 2 bits and more, and half a word of 1 bit.
template <int kBits>
void pack_tokens(const PlaneJob &job, Block block, int drop, uint8_t *plane)
{
    constexpr int kWidth = 32 / kBits;
    constexpr uint32_t kMask = ((1u << kBits) - 1) * 0x01010101u;
    constexpr int kWords = kWidth < kLanes ? kLanes / kWidth : 1, kQuads = (kWidth < kLanes ? kWidth : kLanes) / 4;
    const int start = block.first % kWidth / 4 * kBits;  // of the fields of this block in a word
    for (int w = 0; w < kWords && w * kWidth < block.tokens; ++w) {
        const size_t group = static_cast<size_t>(block.first / kWidth + w);
        uint8_t *out = plane + 4 * group * static_cast<size_t>(job.dim);
        for (int d = 0; d < job.dim; ++d) {
            const uint8_t *codes = job.bytes + d * kLanes + w * kWidth;
            uint32_t word = 0;
            for (int quad = 0; quad < kQuads; ++quad) word |= ((get_word(codes + 4 * quad) >> drop) & kMask) << (kBits * quad);
            put_word(out, static_cast<size_t>(d), get_word(out + 4 * d) | word << start);
        }
    }
}

template <int kBits>
void pack(const PlaneJob &job, Block block, int drop, uint8_t *plane)
{
    if (job.along_tokens)
        pack_tokens<kBits>(job, block, drop, plane);
    else
        pack_dims<kBits>(job, block, drop, plane);
}

// Codes of all kinds are below 2^bits; those of lanes without a token become 0, as everything that pads a word.
void pack_codes(const PlaneJob &job, Block block)
{
    if (block.tokens < kLanes)
        for (int d = 0; d < job.dim; ++d)
            for (int t = block.tokens; t < kLanes; ++t) job.bytes[d * kLanes + t] = 0;
    switch (job.bits) {
        case 8:
            return pack<8>(job, block, 0, job.codes);
        case 4:
            return pack<4>(job, block, 0, job.codes);
        case 3:
            pack<2>(job, block, 0, job.codes);
            return pack<1>(job, block, 2, job.high);
        default:
            return pack<2>(job, block, 0, job.codes);
    }
}

void store_scales(const PlaneJob &job, Block block, int row, const uint16_t *halves)
{
    uint16_t *out = job.scales + static_cast<size_t>(row) * static_cast<size_t>(job.tokens) + block.first;
    __builtin_memcpy(out, halves, sizeof(uint16_t) * static_cast<size_t>(block.tokens));
}

// ---- f16 -------------------------------------------------------------------------------------------------------------------

void copy_dims(const PlaneJob &job)
{
    for (int t = 0; t < job.tokens; ++t) {
        const uint16_t *row = job.data + static_cast<size_t>(t) * job.stride;
        for (int d = 0; d < job.dim; d += 2) {
            const uint32_t word = half_at(row + d) | (d + 1 < job.dim ? static_cast<uint32_t>(half_at(row + d + 1)) << 16 : 0);
            put_word(job.codes, static_cast<size_t>(d / 2) * static_cast<size_t>(job.tokens) + static_cast<size_t>(t), word);
        }
    }
}

void copy_tokens(const PlaneJob &job)
{
    for (int t = 0; t < job.tokens; t += 2) {
        const uint16_t *even = job.data + static_cast<size_t>(t) * job.stride, *odd = even + job.stride;
        uint8_t *out = job.codes + 4 * static_cast<size_t>(t / 2) * static_cast<size_t>(job.dim);
        if (t + 1 < job.tokens)
            for (int d = 0; d < job.dim; ++d)
                put_word(out, static_cast<size_t>(d), half_at(even + d) | static_cast<uint32_t>(half_at(odd + d)) << 16);
        else
            for (int d = 0; d < job.dim; ++d) put_word(out, static_cast<size_t>(d), half_at(even + d));
    }
}

// ---- int8 ------------------------------------------------------------------------------------------------------------------

// The step for values up to `largest`: the nearest half, or its neighbour where that one clips values or overflows when decoded.
inline uint16_t int8_step(float largest)
{
    if (largest == 0) return 0;
    uint16_t half = store_half(largest / 127);
    if (load_half(half) * 127.5f < largest) ++half;
    if (load_half(half) * 127 > kHalfMost) --half;
    return half;
}

void encode_int8(const PlaneJob &job, Block block)
{
    constexpr int kGroup = 128;
    for (int base = 0, group = 0; base < job.dim; base += kGroup, ++group) {
        const int end = base + kGroup < job.dim ? base + kGroup : job.dim;
        uint16_t halves[kLanes];
        for (int lane = 0; lane < kLanes; lane += kVector) {
            float inverse[kVector];
            Floats largest = {};
            for (int d = base; d < end; ++d) largest = larger(magnitude(load(job.x + d * kLanes + lane)), largest);
            for (int t = 0; t < kVector; ++t) {
                halves[lane + t] = int8_step(largest[t]);
                inverse[t] = halves[lane + t] ? 1 / load_half(halves[lane + t]) : 0;
            }
            const Floats factor = load(inverse);
            for (int d = base; d < end; ++d) {
                const Floats code = smaller(larger(load(job.x + d * kLanes + lane) * factor, all(-127)), all(127));
                store_codes(rounded(code + 128), job.bytes + d * kLanes + lane);
            }
        }
        store_scales(job, block, group, halves);
    }
    pack_codes(job, block);
}

// ---- uniform ---------------------------------------------------------------------------------------------------------------

// Codes of part of a token, x ~ least + step * code.
struct Line {
    Floats least, step;
};

inline Floats code_of(Floats x, Floats least, Floats inverse, Floats top)
{
    // Rounded and still a float: exact, as whole numbers are.
    return smaller(larger((x - least) * inverse, all(0)), top) + kRounder - kRounder;
}

// The line from the least to the largest of n values.
Line whole_line(const float *x, int n, float top)
{
    Floats low = load(x), high = low;
    for (int d = 1; d < n; ++d) {
        low = smaller(load(x + d * kLanes), low);
        high = larger(load(x + d * kLanes), high);
    }
    return {low, (high - low) / all(top)};
}

// The line through n values by least squares. Codes of the whole range waste levels on a few outlying values, so narrower ranges
// are tried too, and values beyond them take the last code; the line that leaves the least squared error is kept.
Line best_line(const float *x, int n, float top_code)
{
    constexpr float kRanges[] = {1, 0.9f, 0.8f, 0.7f, 0.6f};
    const Line whole = whole_line(x, n, top_code);
    const Floats low = whole.least, high = low + whole.step * top_code;
    const Floats middle = (low + high) * 0.5f, top = all(top_code);
    const float part = 1 / static_cast<float>(n);
    Floats mean = {};  // of values from the middle, as everything below
    for (int d = 0; d < n; ++d) mean += load(x + d * kLanes) - middle;
    mean *= part;
    Line best = {middle, {}};
    Floats gain = {};
    for (const float range : kRanges) {
        const Floats half = (high - middle) * range, inverse = half > 0 ? top / (half + half) : all(0);
        Floats sum = {}, square = {}, product = {};
        for (int d = 0; d < n; ++d) {
            const Floats value = load(x + d * kLanes) - middle, code = code_of(value, -half, inverse, top);
            sum += code;
            square += code * code;
            product += code * value;
        }
        const Floats variance = square - sum * sum * part, covariance = product - sum * mean;
        const Floats step = variance > 0 ? covariance / variance : all(0), reached = covariance * step;
        best.least = reached > gain ? middle + mean - step * sum * part : best.least;
        best.step = reached > gain ? step : best.step;
        gain = larger(reached, gain);
    }
    return best;
}

// Rounds a line to halves, such that all its values are finite halves.
inline void round_line(float least, float step, float top, uint16_t *least_half, uint16_t *step_half)
{
    *least_half = store_half(least < -kHalfMost ? -kHalfMost : least > kHalfMost ? kHalfMost : least);
    *step_half = store_half(step);
    if (load_half(*least_half) + load_half(*step_half) * top > kHalfMost && *step_half) --*step_half;
}

void encode_uniform(const PlaneJob &job, Block block)
{
    constexpr int kGroup = 64;
    const int groups = (job.dim + kGroup - 1) / kGroup;
    const float top = static_cast<float>((1 << job.bits) - 1);
    // Attention hangs on the few large dimensions of keys: cutting them costs more than it gains, but for the coarsest codes.
    const bool cut = job.along_tokens || job.bits == 2;
    for (int base = 0, group = 0; base < job.dim; base += kGroup, ++group) {
        const int n = job.dim - base < kGroup ? job.dim - base : kGroup;
        uint16_t steps[kLanes], minima[kLanes];
        for (int lane = 0; lane < kLanes; lane += kVector) {
            const float *x = job.x + base * kLanes + lane;
            const Line line = cut ? best_line(x, n, top) : whole_line(x, n, top);
            float least[kVector], inverse[kVector];
            for (int t = 0; t < kVector; ++t) {
                round_line(line.least[t], line.step[t], top, minima + lane + t, steps + lane + t);
                least[t] = load_half(minima[lane + t]);
                inverse[t] = steps[lane + t] ? 1 / load_half(steps[lane + t]) : 0;
            }
            for (int d = 0; d < n; ++d) {
                const Floats code = code_of(load(x + d * kLanes), load(least), load(inverse), all(top));
                store_codes(rounded(code), job.bytes + (base + d) * kLanes + lane);
            }
        }
        store_scales(job, block, group, steps);
        store_scales(job, block, groups + group, minima);
    }
    pack_codes(job, block);
}

// ---- rotated ---------------------------------------------------------------------------------------------------------------

void flip_signs(const PlaneJob &job, const uint32_t *signs)
{
    for (int d = 0; d < job.dim; ++d)
        for (int lane = 0; lane < kLanes; lane += kVector) {
            float *p = job.x + d * kLanes + lane;
            store((Floats)((Ints)load(p) ^ static_cast<int32_t>(signs[d])), p);
        }
}

// One step of the transform between rows a and b.
inline void butterfly(float *a, float *b)
{
    for (int lane = 0; lane < kLanes; lane += kVector) {
        const Floats x = load(a + lane), y = load(b + lane);
        store(x + y, a + lane);
        store(x - y, b + lane);
    }
}

void hadamard(float *x, int p)
{
    for (int half = 1; half < p; half *= 2)
        for (int base = 0; base < p; base += 2 * half)
            for (int i = base; i < base + half; ++i) butterfly(x + i * kLanes, x + (i + half) * kLanes);
    const float scale = 1 / __builtin_sqrtf(static_cast<float>(p));
    for (int i = 0; i < p * kLanes; i += kVector) store(load(x + i) * scale, x + i);
}

void rotate_block(const PlaneJob &job)
{
    int p = 1;
    while (2 * p <= job.dim) p *= 2;
    flip_signs(job, job.signs[0]);
    hadamard(job.x, p);
    if (p == job.dim) return;
    flip_signs(job, job.signs[1]);
    hadamard(job.x + (job.dim - p) * kLanes, p);
}

inline Floats inverse_of(Floats scale) { return scale > 0 ? 1 / scale : all(0); }

// The levels nearest to x / scale: their product with |x| and their square.
struct Fit {
    Floats dot, square;
};

template <int kCount>
inline Fit fit(const float *x, int dim, const LevelTable &table, Floats scale)
{
    const Floats inverse = inverse_of(scale);
    Fit sums = {};
    for (int d = 0; d < dim; ++d) {
        const Floats size = magnitude(load(x + d * kLanes)), y = size * inverse;
        Floats level = all(table.levels[0]);
        for (int i = 1; i < kCount; ++i) level = y > table.thresholds[i - 1] ? all(table.levels[i]) : level;
        sums.dot += size * level;
        sums.square += level * level;
    }
    return sums;
}

// The scale with which levels come closest to x, by least squares. The error has many local minima, a level each more or less, and
// a few starts around the scale of the whole distribution find one that is nearly the least.
template <int kCount>
Floats best_scale(const float *x, int dim, const LevelTable &table, Floats usual)
{
    constexpr float kStarts[] = {0.7f, 0.85f, 1, 1.15f, 1.3f};
    Floats best = {}, gain = {};
    for (const float start : kStarts) {
        const Fit sums = fit<kCount>(x, dim, table, usual * start);
        const Floats scale = sums.dot / sums.square, reached = sums.dot * scale;  // by so much the squared error is below |x|^2
        best = reached > gain ? scale : best;
        gain = larger(reached, gain);
    }
    return best;
}

template <int kCount>
void choose_levels(const float *x, int dim, const LevelTable &table, Floats scale, uint8_t *bytes)
{
    const Floats inverse = inverse_of(scale);
    for (int d = 0; d < dim; ++d) {
        const Floats value = load(x + d * kLanes), y = magnitude(value) * inverse;
        Ints index = {};
        for (int i = 1; i < kCount; ++i) index -= y > table.thresholds[i - 1];  // a comparison that holds is -1
        store_codes(value < 0 ? kCount - 1 - index : kCount + index, bytes + d * kLanes);
    }
}

template <int kCount>
void encode_rotated(const PlaneJob &job, Block block)
{
    rotate_block(job);
    const LevelTable table = job.levels;
    uint16_t halves[kLanes];
    for (int lane = 0; lane < kLanes; lane += kVector) {
        const float *x = job.x + lane;
        Floats square = {};
        for (int d = 0; d < job.dim; ++d) square += load(x + d * kLanes) * load(x + d * kLanes);
        float scales[kVector];
        for (int t = 0; t < kVector; ++t) scales[t] = __builtin_sqrtf(square[t] / static_cast<float>(job.dim)) * table.unit;
        const Floats scale = best_scale<kCount>(x, job.dim, table, load(scales));
        for (int t = 0; t < kVector; ++t) {
            halves[lane + t] = store_half(scale[t]);
            scales[t] = load_half(halves[lane + t]);
        }
        choose_levels<kCount>(x, job.dim, table, load(scales), job.bytes + lane);
    }
    store_scales(job, block, 0, halves);
    pack_codes(job, block);
}

void encode_block(const PlaneJob &job, Block block)
{
    load_block(job, block);
    if (job.coding == Coding::int8) return encode_int8(job, block);
    if (job.coding == Coding::uniform) return encode_uniform(job, block);
    if (job.bits == 4) return encode_rotated<8>(job, block);
    if (job.bits == 3) return encode_rotated<4>(job, block);
    encode_rotated<2>(job, block);
}

void encode_plane(const PlaneJob &job)
{
    if (job.coding == Coding::halves) return job.along_tokens ? copy_tokens(job) : copy_dims(job);
    for (int first = 0; first < job.tokens; first += kLanes) {
        const int left = job.tokens - first;
        encode_block(job, {first, left < kLanes ? left : kLanes});
    }
}
