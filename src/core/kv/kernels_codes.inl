// Codes times queries and weights in floats, where they lie: what processors without byte products of four do (kernels_vnni.inl has
// those). Included in an anonymous namespace by kernels_avx2.cpp, behind kernels_decoded.inl.
//
// Four codes of a word become four signed bytes at once, by a mask, an exclusive or or a table. A byte becomes a float by one move
// to the top of its word and one conversion: its value times 2^24, which the scales take back. Nothing is written to memory
// between.

constexpr float kTopByte = 0x1p-24f;  // what a unit of a byte at the top of a word is worth

template <Codec kCodec>
struct Direct {
    using C = Codes<kCodec>;
    static constexpr int kQuads = C::kWidth / 4;  // quads of codes a word
    template <int kRows, int kVecs>
    using Sums = Vec[kRows][kVecs];

    static IVec levels_table(const TileJob &job)
    {
        int8_t bytes[16] = {};
        if (is_rotated(kCodec))
            for (int i = 0; i < 1 << bits_of(kCodec); i++) bytes[i] = job.levels[i];
        return byte_table(bytes);
    }

    // Codes 4 kQuad .. 4 kQuad + 3 of words, as signed bytes. high: the high bits, kQuad's in bit kQuad of each byte.
    template <int kQuad>
    static VKV_INLINE IVec quad_values(IVec x, IVec high, IVec table)
    {
        if constexpr (kCodec == Codec::int8) return x ^ splat(static_cast<int32_t>(0x80808080));
        constexpr auto kMask = static_cast<int32_t>(0x01010101u * ((1u << C::kBits) - 1));
        IVec code = (kQuad ? x >> C::kBits * kQuad : x) & splat(kMask);
        if constexpr (C::kHigh) {
            const IVec bit = kQuad > 2 ? high >> (kQuad - 2) : kQuad < 2 ? high << (2 - kQuad) : high;
            code |= bit & splat(0x04040404);
        }
        if constexpr (is_rotated(kCodec)) return look_up_bytes(table, code);
        return code;
    }

    // The words of kVecs vectors and their high bits, those of dims or tokens from `at` on in the low half of each byte.
    template <int kVecs>
    struct Words {
        IVec x[kVecs], high[kVecs] = {};
        VKV_INLINE void read(const uint32_t *words, const uint32_t *high_words, int at, size_t row, int last)
        {
            const uint32_t *from = words + static_cast<size_t>(at / C::kWidth) * row;
            repeat<kVecs - 1>(VKV_EACH(b) { x[b] = load_words(from + b * kLanes); });
            x[kVecs - 1] = load_words(from + (kVecs - 1) * kLanes, last);
            if constexpr (C::kHigh) {
                if (at % 32 == 0) {
                    from = high_words + static_cast<size_t>(at / 32) * row;
                    repeat<kVecs - 1>(VKV_EACH(b) { high[b] = load_words(from + b * kLanes); });
                    high[kVecs - 1] = load_words(from + (kVecs - 1) * kLanes, last);
                } else {
                    repeat<kVecs>(VKV_EACH(b) { high[b] = high[b] >> 4; });
                }
            }
        }
    };

    // sums += codes of words * factors, [rows][stride], one for each element of a word.
    template <int kRows, int kVecs>
    static VKV_INLINE void add_products(const Words<kVecs> &words, const float *factors, size_t stride, IVec table,
                                        Sums<kRows, kVecs> &sums)
    {
        repeat<kQuads>(VKV_EACH(quad) {
            IVec bytes[kVecs];
            repeat<kVecs>(VKV_EACH(b) { bytes[b] = quad_values<quad.value>(words.x[b], words.high[b], table); });
            repeat<4>(VKV_EACH(e) {
                Vec value[kVecs];
                repeat<kVecs>(VKV_EACH(b) { value[b] = to_float(byte_to_top<e.value>(bytes[b])); });
                repeat<kRows>(VKV_EACH(r) {
                    const Vec factor = splat_from(factors + static_cast<size_t>(r) * stride + 4 * quad + e);
                    repeat<kVecs>(VKV_EACH(b) { sums[r][b] += value[b] * factor; });
                });
            });
        });
    }

    template <int kRows, int kVecs>
    static VKV_INLINE void clear(Sums<kRows, kVecs> &sums)
    {
        repeat<kRows>(VKV_EACH(r) { repeat<kVecs>(VKV_EACH(b) { sums[r][b] = Vec{}; }); });
    }

    // ---- keys ----

    template <int kRows, int kVecs>
    static void scores_block(const ScoreJob &job, int t0, int last, IVec table)
    {
        const TileView &tile = *job.job.tile;
        const auto *words = reinterpret_cast<const uint32_t *>(tile.k) + t0;
        const auto *high_words = reinterpret_cast<const uint32_t *>(tile.k_high) + t0;
        const int dim = tile.dim_k, groups = (dim + C::kGroup - 1) / C::kGroup;
        Ahead ahead = *job.ahead;
        for (int group = 0; group < groups; group++) {
            const int begin = group * C::kGroup, end = dim - begin < C::kGroup ? dim : begin + C::kGroup;
            Sums<kRows, kVecs> sums;
            clear<kRows, kVecs>(sums);
            Words<kVecs> x;
            for (int d = begin; d < end; d += C::kWidth) {
                fetch<2>(ahead);
                x.read(words, high_words, d, static_cast<size_t>(tile.tokens), last);
                add_products<kRows, kVecs>(x, job.queries.q + d, job.queries.stride, table, sums);
            }
            write_scores<kRows, kVecs>(job, t0, last, group, sums);
        }
        *job.ahead = ahead;
    }

    template <int kRows, int kVecs>
    static VKV_INLINE void write_scores(const ScoreJob &job, int t0, int last, int group, const Sums<kRows, kVecs> &sums)
    {
        const TileView &tile = *job.job.tile;
        const int groups = (tile.dim_k + C::kGroup - 1) / C::kGroup;
        repeat<kVecs>(VKV_EACH(b) {
            const auto scales = [&](int at) __attribute__((always_inline))
            {
                const uint16_t *p = tile.k_scale + static_cast<size_t>(at) * static_cast<size_t>(tile.tokens) + t0 + b * kLanes;
                return b + 1 < kVecs || last == kLanes ? half_row(p) : half_row(p, last);
            };
            const Vec factor = scales(group) * kTopByte, least = is_uniform(kCodec) ? scales(groups + group) : Vec{};
            repeat<kRows>(VKV_EACH(r) {
                float *out = job.out + static_cast<size_t>(r) * job.stride + t0 + b * kLanes;
                Vec score = sums[r][b] * factor;
                if constexpr (is_uniform(kCodec)) score += least * sum_of_query(job.queries, r, group);
                store(out, group ? score + load(out) : score);
            });
        });
    }

    // Of the dims of a group; those beyond the last are zero.
    static float sum_of_query(const QueryRows &queries, int row, int group)
    {
        const float *q = queries.q + static_cast<size_t>(row) * queries.stride + static_cast<size_t>(group) * C::kGroup;
        Vec sum = {};
        for (int d = 0; d < C::kGroup; d += kLanes) sum += load(q + d);
        float total = 0;
        for (int i = 0; i < kLanes; i++) total += sum[i];
        return total;
    }

    template <int kRows>
    static void scores(const ScoreJob &job)
    {
        constexpr int kMost = kRows <= 2 ? 4 : kRows == 3 ? 3 : 2;  // vectors of tokens that leave registers for the sums
        const IVec table = levels_table(job.job);
        const int tokens = job.job.tile->tokens;
        for (int t = 0; t < tokens;) {
            const int left = tokens - t, vecs = (left + kLanes - 1) / kLanes;
            if (vecs >= kMost) {
                scores_block<kRows, kMost>(job, t, left >= kMost * kLanes ? kLanes : left - (kMost - 1) * kLanes, table);
                t += kMost * kLanes;
            } else if (kMost > 2 && vecs >= 2) {
                scores_block<kRows, 2>(job, t, left >= 2 * kLanes ? kLanes : left - kLanes, table);
                t += 2 * kLanes;
            } else {
                scores_block<kRows, 1>(job, t, left >= kLanes ? kLanes : left, table);
                t += kLanes;
            }
        }
    }

    // ---- values ----

    // Weights times scales of a group, zero beyond the tokens, up to a whole word.
    template <int kRows>
    struct Weights {
        alignas(64) float scaled[kRows][kMostTokens];
        float offset[kRows];  // sum of weights times minima
    };

    template <int kRows>
    static void weigh(const ValueJob &job, int group, int groups, Weights<kRows> &out)
    {
        const TileView &tile = *job.job.tile;
        const int tokens = tile.tokens, end = (tokens + C::kWidth - 1) / C::kWidth * C::kWidth;
        Vec offset[kRows] = {};
        int t = 0;
        for (; t < tokens; t += kLanes) {
            const int n = tokens - t;
            const auto scales = [&](int at) __attribute__((always_inline))
            {
                const uint16_t *p = tile.v_scale + static_cast<size_t>(at) * static_cast<size_t>(tokens) + t;
                return n >= kLanes ? half_row(p) : half_row(p, n);
            };
            const Vec factor = scales(group) * kTopByte, least = is_uniform(kCodec) ? scales(groups + group) : Vec{};
            repeat<kRows>(VKV_EACH(r) {
                const Vec weight = load(job.weights + static_cast<size_t>(r) * job.stride + t);
                if constexpr (is_uniform(kCodec)) offset[r] += weight * least;
                store(out.scaled[r] + t, weight * factor);
            });
        }
        for (; t < end; t += kLanes) repeat<kRows>(VKV_EACH(r) { store(out.scaled[r] + t, Vec{}); });
        repeat<kRows>(VKV_EACH(r) {
            out.offset[r] = 0;
            for (int i = 0; is_uniform(kCodec) && i < kLanes; i++) out.offset[r] += offset[r][i];
        });
    }

    template <int kRows, int kVecs>
    static void values_block(const ValueJob &job, int d0, int last, IVec table, const Weights<kRows> &weights)
    {
        const TileView &tile = *job.job.tile;
        const auto *words = reinterpret_cast<const uint32_t *>(tile.v) + d0;
        const auto *high_words = reinterpret_cast<const uint32_t *>(tile.v_high) + d0;
        Sums<kRows, kVecs> sums;
        clear<kRows, kVecs>(sums);
        Words<kVecs> x;
        Ahead ahead = *job.ahead;
        for (int t = 0; t < tile.tokens; t += C::kWidth) {
            fetch<2>(ahead);
            x.read(words, high_words, t, static_cast<size_t>(tile.dim_v), last);
            add_products<kRows, kVecs>(x, weights.scaled[0] + t, kMostTokens, table, sums);
        }
        *job.ahead = ahead;
        repeat<kRows>(VKV_EACH(r) {
            repeat<kVecs>(VKV_EACH(b) {
                float *o = job.o + static_cast<size_t>(r) * job.o_stride + d0 + b * kLanes;
                Vec value = load(o) + sums[r][b];
                if constexpr (is_uniform(kCodec)) value += weights.offset[r];
                store(o, value);
            });
        });
    }

    template <int kRows>
    static void values(const ValueJob &job)
    {
        constexpr int kMost = kRows <= 2 ? 4 : kRows == 3 ? 3 : 2;
        const IVec table = levels_table(job.job);
        const int dim = job.job.tile->dim_v, groups = (dim + C::kGroup - 1) / C::kGroup;
        Weights<kRows> weights;
        for (int group = 0; group < groups; group++) {
            weigh<kRows>(job, group, groups, weights);
            const int begin = group * C::kGroup, end = dim - begin < C::kGroup ? dim : begin + C::kGroup;
            for (int d = begin; d < end;) {
                const int left = end - d, vecs = (left + kLanes - 1) / kLanes;
                if (vecs >= kMost) {
                    values_block<kRows, kMost>(job, d, left >= kMost * kLanes ? kLanes : left - (kMost - 1) * kLanes, table,
                                               weights);
                    d += kMost * kLanes;
                } else if (kMost > 2 && vecs >= 2) {
                    values_block<kRows, 2>(job, d, left >= 2 * kLanes ? kLanes : left - kLanes, table, weights);
                    d += 2 * kLanes;
                } else {
                    values_block<kRows, 1>(job, d, left >= kLanes ? kLanes : left, table, weights);
                    d += kLanes;
                }
            }
        }
    }
};
