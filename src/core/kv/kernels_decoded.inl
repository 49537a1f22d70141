// Tiles by blocks of 16 tokens, in vectors of kLanes floats: decoding keys and values, scores and sums over a decoded block, rotary
// embeddings, and the rotation of rotated codecs. Behind kernels_body.inl in each file of an instruction set.

// ---- blocks -----------------------------------------------------------------------------------------------------------------

// What the codes of a codec are. Field e / 4, byte e % 4 of a word holds element e; 3-bit codes have their high bit in words of
// their own, twice as long.
template <Codec kCodec>
struct Codes {
    static constexpr int kBits = bits_of(kCodec) == 3 ? 2 : bits_of(kCodec);
    static constexpr int kWidth = 32 / kBits;  // elements a word
    static constexpr bool kHigh = bits_of(kCodec) == 3;
    static constexpr int kGroup = kCodec == Codec::int8 ? 128 : is_uniform(kCodec) ? 64 : 1 << 20;
};

// Element e of words. high: the words of high bits, those of these elements in the low half of each byte.
template <Codec kCodec>
VKV_INLINE Vec code_values(IVec x, IVec high, int e, const float *table)
{
    using C = Codes<kCodec>;
    IVec code = (x >> (8 * (e % 4) + C::kBits * (e / 4))) & ((1 << C::kBits) - 1);
    if constexpr (C::kHigh) code |= ((high >> (8 * (e % 4) + e / 4)) & 1) << 2;
    if constexpr (is_rotated(kCodec)) return lookup(table, code);
    return to_float(code);
}

// The elements of a word, of which `count` matter: with constants for e, so that shifts have theirs, where all of them do.
template <int kWidth, class Decode>
VKV_INLINE void each_element(int count, const Decode &decode)
{
    if (count >= kWidth)
        repeat<kWidth>(decode);
    else
        for (int e = 0; e < count; e++) decode(e);
}

inline void level_table(const TileJob &job, int bits, float *table)
{
    for (int i = 0; i < 16; i++) table[i] = job.levels && i < 1 << bits ? static_cast<float>(job.levels[i]) : 0.0f;
}

// x = scale * code + offset, for lanes of tokens.
template <Codec kCodec>
struct LaneScales {
    LaneScales(const TileView &tile, int groups, int group, int t, int n)
    {
        const auto row = [&](int at) {
            const uint16_t *p = tile.k_scale + static_cast<size_t>(at) * static_cast<size_t>(tile.tokens) + t;
            return n < kLanes ? half_row(p, n) : half_row(p);
        };
        factor = row(group);
        if constexpr (kCodec == Codec::int8) offset = factor * -128.0f;
        if constexpr (is_uniform(kCodec)) offset = row(groups + group);
    }
    Vec factor, offset = {};
};

template <Codec kCodec>
void decode_keys(const DecodeJob &job)
{
    using C = Codes<kCodec>;
    const TileView &tile = *job.job.tile;
    const auto tokens = static_cast<size_t>(tile.tokens);
    float table[16];
    level_table(job.job, bits_of(kCodec), table);
    const int dim = tile.dim_k, groups = (dim + C::kGroup - 1) / C::kGroup;
    for (int lane = 0; lane < kBlock; lane += kLanes) {
        const int n = job.count - lane < kLanes ? job.count - lane : kLanes, t = job.t0 + lane;
        float *out = job.out + lane;
        if (n <= 0) {
            for (int d = 0; d < dim; d++) store(out + d * kBlock, Vec{});
            continue;
        }
        const uint32_t *words = reinterpret_cast<const uint32_t *>(tile.k) + t;
        const uint32_t *high_words = C::kHigh ? reinterpret_cast<const uint32_t *>(tile.k_high) + t : nullptr;
        for (int group = 0; group < groups; group++) {
            const LaneScales<kCodec> scales(tile, groups, group, t, n);
            const int begin = group * C::kGroup, end = dim - begin < C::kGroup ? dim : begin + C::kGroup;
            for (int d = begin; d < end; d += C::kWidth) {
                const IVec x = load_words(words + static_cast<size_t>(d / C::kWidth) * tokens, n);
                const IVec high =
                    C::kHigh ? load_words(high_words + static_cast<size_t>(d / 32) * tokens, n) >> (d / 16 % 2 * 4) : IVec{};
                const auto decode = [&](int e) __attribute__((always_inline))
                {
                    store(out + (d + e) * kBlock, code_values<kCodec>(x, high, e, table) * scales.factor + scales.offset);
                };
                each_element<C::kWidth>(end - d, decode);
            }
        }
    }
}

inline void clear_padding(const DecodeJob &job, int written)
{
    for (int i = 0; i < job.count; i++)
        for (size_t d = static_cast<size_t>(written); d < job.stride; d++) job.out[static_cast<size_t>(i) * job.stride + d] = 0.0f;
}

template <Codec kCodec>
void decode_values(const DecodeJob &job)
{
    using C = Codes<kCodec>;
    const TileView &tile = *job.job.tile;
    const auto tokens = static_cast<size_t>(tile.tokens), dims = static_cast<size_t>(tile.dim_v);
    float table[16];
    level_table(job.job, bits_of(kCodec), table);
    const int dim = tile.dim_v, groups = (dim + C::kGroup - 1) / C::kGroup;
    const uint32_t *words = reinterpret_cast<const uint32_t *>(tile.v);
    const uint32_t *high_words = C::kHigh ? reinterpret_cast<const uint32_t *>(tile.v_high) : nullptr;
    for (int group = 0; group < groups; group++) {
        float factor[kBlock], offset[kBlock] = {};
        for (int i = 0; i < job.count; i++) {
            const uint16_t *p = tile.v_scale + static_cast<size_t>(group) * tokens + job.t0 + i;
            factor[i] = load_half(p);
            if (kCodec == Codec::int8) offset[i] = -128.0f * factor[i];
            if (is_uniform(kCodec)) offset[i] = load_half(p + static_cast<size_t>(groups) * tokens);
        }
        const int begin = group * C::kGroup, end = dim - begin < C::kGroup ? dim : begin + C::kGroup;
        for (int d = begin; d < end; d += kLanes) {
            const int n = end - d < kLanes ? end - d : kLanes;
            for (int i = 0; i < job.count; i += C::kWidth) {
                const auto t = static_cast<size_t>(job.t0 + i);
                const IVec x = load_words(words + t / C::kWidth * dims + d, n);
                const IVec high =
                    C::kHigh ? load_words(high_words + t / 32 * dims + d, n) >> static_cast<int>(t / 16 % 2 * 4) : IVec{};
                const auto decode = [&](int e) __attribute__((always_inline))
                {
                    store(job.out + static_cast<size_t>(i + e) * job.stride + d,
                          code_values<kCodec>(x, high, e, table) * factor[i + e] + offset[i + e]);
                };
                each_element<C::kWidth>(job.count - i, decode);
            }
        }
    }
    clear_padding(job, (dim + kLanes - 1) / kLanes * kLanes);
}

template <>
void decode_keys<Codec::f16>(const DecodeJob &job)
{
    const TileView &tile = *job.job.tile;
    const auto *k = reinterpret_cast<const uint16_t *>(tile.k);
    const auto tokens = static_cast<size_t>(tile.tokens);
    for (int d = 0; d < tile.dim_k; d++)
        for (int i = 0; i < kBlock; i++)
            job.out[d * kBlock + i] =
                i < job.count ? load_half(k + 2 * (static_cast<size_t>(d / 2) * tokens + static_cast<size_t>(job.t0 + i)) + d % 2)
                              : 0.0f;
}

template <>
void decode_values<Codec::f16>(const DecodeJob &job)
{
    const TileView &tile = *job.job.tile;
    const auto *v = reinterpret_cast<const uint16_t *>(tile.v);
    const auto dims = static_cast<size_t>(tile.dim_v);
    for (int i = 0; i < job.count; i++) {
        const auto t = static_cast<size_t>(job.t0 + i);
        for (size_t d = 0; d < dims; d++)
            job.out[static_cast<size_t>(i) * job.stride + d] = load_half(v + 2 * (t / 2 * dims + d) + t % 2);
    }
    clear_padding(job, tile.dim_v);
}

constexpr int kBlockVecs = kBlock / kLanes;
constexpr int kScoreRows = kLanes == 16 ? 8 : 4;

template <int kRows>
inline void block_scores_rows(const BlockScores &job, int row)
{
    const float *q = job.queries.q + static_cast<size_t>(row) * job.queries.stride;
    const size_t stride = job.queries.stride;
    Vec sums[kRows][kBlockVecs];
    repeat<kRows>(VKV_EACH(r) { repeat<kBlockVecs>(VKV_EACH(i) { sums[r][i] = Vec{}; }); });
    for (int d = 0; d < job.dim; d++) {
        Vec k[kBlockVecs];
        repeat<kBlockVecs>(VKV_EACH(i) { k[i] = load(job.block + d * kBlock + i * kLanes); });
        repeat<kRows>(VKV_EACH(r) {
            const Vec factor = splat(q[static_cast<size_t>(r) * stride + d]);
            repeat<kBlockVecs>(VKV_EACH(i) { sums[r][i] += k[i] * factor; });
        });
    }
    repeat<kRows>(VKV_EACH(r) {
        repeat<kBlockVecs>(VKV_EACH(i) { store(job.out + static_cast<size_t>(row + r) * job.stride + i * kLanes, sums[r][i]); });
    });
}

void block_scores(const BlockScores &job)
{
    for (int row = 0; row < job.queries.rows;) {
        const int left = job.queries.rows - row;
        if (kScoreRows == 8 && left >= 8) {
            block_scores_rows<8>(job, row);
            row += 8;
        } else if (left >= 4) {
            block_scores_rows<4>(job, row);
            row += 4;
        } else if (left == 2) {
            block_scores_rows<2>(job, row);
            row += 2;
        } else if (left == 3) {
            block_scores_rows<3>(job, row);
            row += 3;
        } else {
            block_scores_rows<1>(job, row++);
        }
    }
}

template <int kRows, int kVecs>
inline void block_values_part(const BlockValues &job, int row, size_t d)
{
    const float *p = job.weights + static_cast<size_t>(row) * job.stride;
    float *o = job.o + static_cast<size_t>(row) * job.o_stride + d;
    const size_t stride = job.stride;
    Vec sums[kRows][kVecs];
    repeat<kRows>(VKV_EACH(r) { repeat<kVecs>(VKV_EACH(i) { sums[r][i] = Vec{}; }); });
    for (int t = 0; t < job.count; t++) {
        const float *v = job.block + static_cast<size_t>(t) * job.o_stride + d;
        Vec x[kVecs];
        repeat<kVecs>(VKV_EACH(i) { x[i] = load(v + i * kLanes); });
        repeat<kRows>(VKV_EACH(r) {
            const Vec factor = splat(p[static_cast<size_t>(r) * stride + t]);
            repeat<kVecs>(VKV_EACH(i) { sums[r][i] += x[i] * factor; });
        });
    }
    repeat<kRows>(VKV_EACH(r) {
        repeat<kVecs>(VKV_EACH(i) {
            float *at = o + static_cast<size_t>(r) * job.o_stride + i * kLanes;
            store(at, load(at) + sums[r][i]);
        });
    });
}

template <int kRows>
inline void block_values_rows(const BlockValues &job, int row)
{
    constexpr int kVecs = kLanes == 16 ? 4 : 2;
    size_t d = 0;
    for (; d + kVecs * kLanes <= job.o_stride; d += kVecs * kLanes) block_values_part<kRows, kVecs>(job, row, d);
    for (; d < job.o_stride; d += kLanes) block_values_part<kRows, 1>(job, row, d);
}

void block_values(const BlockValues &job)
{
    for (int row = 0; row < job.rows;) {
        const int left = job.rows - row;
        if (left >= 4) {
            block_values_rows<4>(job, row);
            row += 4;
        } else if (left == 3) {
            block_values_rows<3>(job, row);
            row += 3;
        } else if (left == 2) {
            block_values_rows<2>(job, row);
            row += 2;
        } else {
            block_values_rows<1>(job, row++);
        }
    }
}

void rope_block(const RopeBlock &job)
{
    for (int i = 0; i < job.pairs; i++) {
        float *a = job.block + static_cast<size_t>(job.interleaved ? 2 * i : i) * kBlock;
        float *b = a + static_cast<size_t>(job.interleaved ? 1 : job.pairs) * kBlock;
        for (int lane = 0; lane < kBlock; lane += kLanes) {
            const Vec lane_cosine = load(job.cosines + i * kBlock + lane), lane_sine = load(job.sines + i * kBlock + lane);
            const Vec c = lane_cosine * job.cosine[i] - lane_sine * job.sine[i];
            const Vec s = lane_cosine * job.sine[i] + lane_sine * job.cosine[i];
            const Vec x = load(a + lane), y = load(b + lane);
            store(a + lane, x * c - y * s);
            store(b + lane, x * s + y * c);
        }
    }
}

// ---- rotation ---------------------------------------------------------------------------------------------------------------

template <int kHalf, int... kLane>
VKV_INLINE Vec butterfly_of(Vec x)
{
    const Vec other = __builtin_shufflevector(x, x, (kLane ^ kHalf)...), sign = {(kLane & kHalf ? -1.0f : 1.0f)...};
    return x * sign + other;
}
template <int kHalf>
VKV_INLINE Vec butterfly(Vec x)
{
    if constexpr (kHalf >= kLanes)
        return x;
    else if constexpr (kLanes == 16)
        return butterfly_of<kHalf, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>(x);
    else if constexpr (kLanes == 8)
        return butterfly_of<kHalf, 0, 1, 2, 3, 4, 5, 6, 7>(x);
    else
        return butterfly_of<kHalf, 0, 1, 2, 3>(x);
}

void hadamard(float *x, int p)
{
    for (int i = 0; i < p; i += kLanes) store(x + i, butterfly<8>(butterfly<4>(butterfly<2>(butterfly<1>(load(x + i))))));
    for (int half = kLanes; half < p; half *= 2)
        for (int base = 0; base < p; base += 2 * half)
            for (int i = base; i < base + half; i += kLanes) {
                const Vec a = load(x + i), b = load(x + i + half);
                store(x + i, a + b);
                store(x + i + half, a - b);
            }
    scale(x, static_cast<size_t>(p), 1 / __builtin_sqrtf(static_cast<float>(p)));
}

#define VKV_ALL_CODECS(function)                                                                                       \
    {                                                                                                                  \
        function<Codec::f16>, function<Codec::int8>, function<Codec::uniform4>, function<Codec::uniform3>,             \
            function<Codec::uniform2>, function<Codec::rotated4>, function<Codec::rotated3>, function<Codec::rotated2> \
    }
