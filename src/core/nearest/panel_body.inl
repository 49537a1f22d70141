// The panel kernels as loops over vectors, compiled once for each instruction set, in an anonymous namespace. The including file
// defines first: kLanes, kVectors (of rows at a time), kQueries (at a time), and behind this file bits_not_above.

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t IVec __attribute__((vector_size(kLanes * 4)));

inline uint32_t bits_not_above(Vec value, Vec limit);  // a bit a lane, set unless value > limit

#define VKV_INLINE inline __attribute__((always_inline))

// repeat<n>(VKV_EACH(i) { ... }) with i a constant: arrays of vectors indexed so live in registers.
template <int kValue>
struct Constant {
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

VKV_INLINE Vec load(const float *p)
{
    Vec v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

struct Dot {
    static VKV_INLINE Vec step(Vec sum, Vec row, float query) { return row * query + sum; }
};
struct L2 {
    static VKV_INLINE Vec step(Vec sum, Vec row, float query)
    {
        const Vec difference = row - query;
        return difference * difference + sum;
    }
};
struct L1 {
    static VKV_INLINE Vec step(Vec sum, Vec row, float query)
    {
        return sum + reinterpret_cast<Vec>(bits_of(row - query) & kNoSign);
    }

private:
    static constexpr int32_t kNoSign = 0x7fffffff;
    static VKV_INLINE IVec bits_of(Vec v) { return reinterpret_cast<IVec>(v); }
};

// Rows [row, row + kVectors * kLanes) against queries [query, query + kQueries).
template <class Op>
VKV_INLINE void part(const Panel &p, size_t row, size_t query)
{
    Vec total[kQueries][kVectors] = {};
    for (size_t begin = 0; begin < p.dim; begin += kBlock) {
        const size_t end = p.dim - begin < kBlock ? p.dim : begin + kBlock;
        Vec sum[kQueries][kVectors] = {};
        const float *rows = p.rows + begin * kPanelRows + row, *queries = p.queries + begin * kPanelQueries + query;
        for (size_t d = begin; d < end; d++, rows += kPanelRows, queries += kPanelQueries) {
            Vec x[kVectors];
            repeat<kVectors>(VKV_EACH(v) { x[v] = load(rows + v * kLanes); });
            repeat<kQueries>(VKV_EACH(q) {
                const float y = queries[q];
                repeat<kVectors>(VKV_EACH(v) { sum[q][v] = Op::step(sum[q][v], x[v], y); });
            });
        }
        repeat<kQueries>(VKV_EACH(q) { repeat<kVectors>(VKV_EACH(v) { total[q][v] += sum[q][v]; }); });
    }
    for (int q = 0; q < kQueries; q++) {
        const Vec limit = Vec{} + p.limits[query + static_cast<size_t>(q)];
        uint32_t found = 0;
        for (size_t v = 0; v < kVectors; v++) {
            const size_t at = row + v * kLanes;
            found |= bits_not_above(total[q][v] * load(p.scale + at) + load(p.offset + at), limit) << at;
        }
        p.found[query + static_cast<size_t>(q)] |= found;
    }
}

template <class Op>
void panel(const Panel &p)
{
    for (size_t q = 0; q < kPanelQueries; q++) p.found[q] = 0;
    for (size_t row = 0; row < kPanelRows; row += kVectors * kLanes)
        for (size_t query = 0; query < kPanelQueries; query += kQueries) part<Op>(p, row, query);
}
