// Vectors of kLanes floats and what they are made of, for the loops of kernels_body.inl; included in an anonymous namespace once
// for each instruction set. The including file defines kLanes and, behind this file, the primitives that differ (declared here).

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t IVec __attribute__((vector_size(kLanes * 4)));

#define VKV_INLINE inline __attribute__((always_inline))

// repeat<n>(VKV_EACH(i) { ... }) with i a constant: arrays of vectors that are indexed by such constants only live in registers.
template <int kValue>
struct Constant {
    static constexpr int value = kValue;
    constexpr operator int() const { return kValue; }
};
template <int kTo, int kFrom = 0, class Body>
VKV_INLINE void repeat(Body &&body)
{
    if constexpr (kFrom < kTo) {
        body(Constant<kFrom>());
        repeat<kTo, kFrom + 1>(body);
    }
}
#define VKV_EACH(i) [&](auto i) __attribute__((always_inline))

// The next kLines lines, if any are left. Beyond the end some may be fetched: that does no harm.
template <int kLines>
VKV_INLINE void fetch(Ahead &ahead)
{
    if (ahead.at >= ahead.end) return;
    repeat<kLines>(VKV_EACH(i) { __builtin_prefetch(ahead.at + 64 * i, 0, 2); });
    ahead.at += 64 * kLines;
}

template <class T>
inline T load_as(const void *p)
{
    T value;
    __builtin_memcpy(&value, p, sizeof value);
    return value;
}
inline Vec load(const float *p) { return load_as<Vec>(p); }
inline void store(float *p, Vec v) { __builtin_memcpy(p, &v, sizeof v); }
inline IVec load_words(const uint32_t *p) { return load_as<IVec>(p); }
inline Vec splat(float x) { return x - Vec{}; }  // a sum with zero would be computed: it turns -0 to 0
inline IVec splat(int32_t x) { return IVec{} + x; }
inline Vec to_float(IVec x) { return __builtin_convertvector(x, Vec); }

// Per instruction set. The first n of kLanes (or of kLanes / 2 words) are read, the others are zero; n > 0.
inline IVec load_words(const uint32_t *p, int n);
inline Vec halves(const uint32_t *words);         // kLanes / 2 words
inline Vec halves(const uint32_t *words, int n);  // n words of them
inline Vec half_row(const uint16_t *halves);      // kLanes halves
inline Vec half_row(const uint16_t *halves, int n);
inline Vec splat_pair(const float *pair);  // a, b, a, b, ...
inline Vec pair_sums(Vec a, Vec b);        // a0 + a1, a2 + a3, ..., b0 + b1, ...
inline Vec vmax(Vec a, Vec b);
inline bool any_greater(Vec a, Vec b);
inline Vec rounded(Vec a);                         // to integers
inline Vec times_power(Vec a, Vec n);              // a * 2^n, n integers from -126 to 126
inline Vec zero_below(Vec a, Vec x, float least);  // a where x >= least, else 0
inline float largest(Vec a);
inline Vec weight(Vec x);  // e^x for x <= 0, also -inf; 0 below kLeastExponent

inline Vec lookup(const float *table, IVec index);  // table [16]
inline Vec first_lanes(Vec x, int n, float other);  // lanes from n on are `other`
