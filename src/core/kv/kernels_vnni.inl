// Codes times queries and weights in bytes (VNNI's vpdpbusd: four products of an unsigned and a signed byte added to 32 bits).
//
// A float of 24 bits is three bytes, so a product of a code is three byte products: 64 codes in three instructions, where floats
// take four and a conversion. Keys: codes unsigned, digits of q signed, tokens in lanes. Values: digits of the weights unsigned (a
// weight is not negative), codes signed, dims in lanes. Sums are exact; they turn to floats once a group of dims, or once a tile.
// Included in an anonymous namespace by kernels_avx512.cpp.

inline __m512i splat_word(const uint32_t *p) { return _mm512_set1_epi32(static_cast<int>(load_as<uint32_t>(p))); }

// Four products of bytes to each sum. Not the intrinsic: with that, g++ 12 copies each of these sums twice a turn of the loop, and
// spills where there are as many as there are registers for.
VKV_INLINE void add_products(__m512i &sums, __m512i without_sign, __m512i with_sign)
{
    asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(without_sign), "v"(with_sign));
}

// Bytes of four integers side by side: byte 0 of each, byte 1 of each, ...
inline __m512i by_digits(__m512i x)
{
    return _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
}

// q = step * x, x an integer of at most 0x7F7F7F: bytes of x + 0x808080, each less 128, are its signed digits.
void make_digits(const DigitJob &job)
{
    constexpr float kUnits = 0x7F7F70;  // rounding up stays below 0x7F7F7F
    __m512 most = _mm512_setzero_ps();
    for (size_t d = 0; d < job.stride; d += 16) most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_loadu_ps(job.q + d)));
    const float largest_q = _mm512_reduce_max_ps(most);
    const bool any = largest_q > 1e-30f;
    *job.step = any ? largest_q / kUnits : 0.0f;
    const __m512 inverse = _mm512_set1_ps(any ? kUnits / largest_q : 0.0f);
    const __m512i bias = _mm512_set1_epi32(0x808080);
    for (size_t d = 0; d < job.stride; d += kRowPad) {
        __m512i sums = _mm512_setzero_si512();
        for (size_t i = d; i < d + kRowPad; i += 16) {
            const __m512i x = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(job.q + i), inverse));
            const __m512i digits = by_digits(_mm512_xor_si512(_mm512_add_epi32(x, bias), bias));
            sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), digits);
            _mm512_storeu_si512(job.digits + i, digits);
        }
        const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64(sums, 1));
        const __m128i quarter = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i *>(job.sums + d / kRowPad * 4), quarter);
    }
}

// (a2 * 256 + a1) * 256 + a0; the first two fit 32 bits.
inline __m512 joined(__m512i a0, __m512i a1, __m512i a2)
{
    const __m512i high = _mm512_add_epi32(_mm512_slli_epi32(a2, 8), a1);
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), _mm512_set1_ps(256.0f), _mm512_cvtepi32_ps(a0));
}

// Codes 4 kQuad .. 4 kQuad + 3 of words, in bytes. high: the high bits, kQuad's in bit kQuad of each byte. table: codes to levels.
template <Codec kCodec, int kQuad>
VKV_INLINE __m512i quad_codes(__m512i x, __m512i high, __m512i table)
{
    using C = Codes<kCodec>;
    if constexpr (kCodec == Codec::int8) return x;
    const __m512i mask = _mm512_set1_epi8((1 << C::kBits) - 1);
    __m512i code = _mm512_and_si512(kQuad ? _mm512_srli_epi32(x, C::kBits * kQuad) : x, mask);
    if constexpr (C::kHigh) {
        const __m512i bit = kQuad > 2   ? _mm512_srli_epi32(high, kQuad - 2 > 0 ? kQuad - 2 : 0)
                            : kQuad < 2 ? _mm512_slli_epi32(high, 2 - kQuad > 0 ? 2 - kQuad : 0)
                                        : high;
        code = _mm512_ternarylogic_epi32(bit, _mm512_set1_epi8(4), code, 0xEA);  // (bit & 4) | code
    }
    if constexpr (is_rotated(kCodec)) return _mm512_shuffle_epi8(table, code);
    return code;
}

// The largest lane of each of up to four vectors.
template <int kRows>
VKV_INLINE __m128 largest_of(const __m512 (&x)[kRows])
{
    const __m512 a = x[0], b = x[kRows > 1 ? 1 : 0], c = x[kRows > 2 ? 2 : 0], d = x[kRows > 3 ? 3 : 0];
    const __m512 ab = _mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 cd = _mm512_max_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512 abcd = _mm512_max_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xEE));
    const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
    return _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

template <int kRows, int kVecs>
using Sums = __m512i[kRows][3][kVecs];

template <Codec kCodec>
struct Vnni {
    using C = Codes<kCodec>;
    static constexpr int kQuads = C::kWidth / 4;                  // quads a word
    static constexpr int kGroup = is_uniform(kCodec) ? 64 : 128;  // dims between two conversions of sums to floats
    static constexpr int kZero =
        kCodec == Codec::int8 || is_rotated(kCodec) ? 128 : 1 << (bits_of(kCodec) - 1);  // code taken for zero

    static __m512i levels_table(const TileJob &job, uint8_t flip)
    {
        uint8_t bytes[16] = {};
        if (is_rotated(kCodec))
            for (int i = 0; i < 1 << bits_of(kCodec); i++) bytes[i] = static_cast<uint8_t>(job.levels[i]) ^ flip;
        return _mm512_broadcast_i32x4(load_as<__m128i>(bytes));
    }

    // Blocks take two vectors of tokens or dims where they can: a digit, once broadcast, serves both.

    // ---- keys ----

    template <int kRows, int kVecs>
    static void scores_block(const ScoreJob &job, int t0, __m512i table, __mmask16 last)
    {
        const TileView &tile = *job.job.tile;
        const auto tokens = static_cast<size_t>(tile.tokens);
        const QueryRows &queries = job.queries;
        const auto *words = reinterpret_cast<const uint32_t *>(tile.k) + t0;
        const auto *high_words = reinterpret_cast<const uint32_t *>(tile.k_high) + t0;
        const int dim = tile.dim_k, groups = (dim + kGroup - 1) / kGroup;
        Ahead ahead = *job.ahead;
        for (int group = 0; group < groups; group++) {
            const int begin = group * kGroup, end = dim - begin < kGroup ? dim : begin + kGroup;
            Sums<kRows, kVecs> sums;
            repeat<kRows>(VKV_EACH(r) {
                const int32_t *digit_sums = queries.digit_sums + (static_cast<size_t>(r) * queries.stride + begin) / kRowPad * 4;
                repeat<3>(VKV_EACH(i) {
                    int32_t total = digit_sums[i];
                    if (kGroup == 128 && end - begin > 64) total += digit_sums[4 + i];
                    repeat<kVecs>(VKV_EACH(b) { sums[r][i][b] = _mm512_set1_epi32(-kZero * total); });
                });
            });
            __m512i high[kVecs];
            repeat<kVecs>(VKV_EACH(b) { high[b] = _mm512_setzero_si512(); });
            for (int d = begin; d < end; d += C::kWidth) {
                const uint32_t *digits = queries.digits + d;
                fetch<kVecs>(ahead);
                const auto word = static_cast<size_t>(d / C::kWidth) * tokens;
                __m512i x[kVecs];
                repeat<kVecs>(VKV_EACH(b) { x[b] = load_part<b.value + 1 == kVecs>(words + word + b * 16, last); });
                if constexpr (C::kHigh) {
                    if (d % 32 == 0) {
                        const uint32_t *from = high_words + static_cast<size_t>(d / 32) * tokens;
                        repeat<kVecs>(VKV_EACH(b) { high[b] = load_part<b.value + 1 == kVecs>(from + b * 16, last); });
                    } else {
                        repeat<kVecs>(VKV_EACH(b) { high[b] = _mm512_srli_epi32(high[b], 4); });
                    }
                }
                quads<kRows, kVecs>(x, high, digits, queries.stride, table, sums);
            }
            write_scores<kRows, kVecs>(job, t0, group, groups, sums, last);
        }
        *job.ahead = ahead;
    }

    template <bool kLast>
    static VKV_INLINE __m512i load_part(const uint32_t *p, __mmask16 last)
    {
        return kLast ? _mm512_maskz_loadu_epi32(last, p) : _mm512_loadu_si512(p);
    }

    // One word of each token: kQuads times four dims.
    template <int kRows, int kVecs>
    static VKV_INLINE void quads(const __m512i (&x)[kVecs], const __m512i (&high)[kVecs], const uint32_t *digits, size_t stride,
                                 __m512i table, Sums<kRows, kVecs> &sums)
    {
        repeat<kQuads>(VKV_EACH(e) {
            __m512i codes[kVecs];
            repeat<kVecs>(VKV_EACH(b) { codes[b] = quad_codes<kCodec, e.value>(x[b], high[b], table); });
            repeat<kRows>(VKV_EACH(r) {
                repeat<3>(VKV_EACH(i) {
                    const __m512i digit = splat_word(digits + static_cast<size_t>(r) * stride + 4 * e + i);
                    repeat<kVecs>(VKV_EACH(b) { add_products(sums[r][i][b], codes[b], digit); });
                });
            });
        });
    }

    template <int kRows, int kVecs>
    static VKV_INLINE void write_scores(const ScoreJob &job, int t0, int group, int groups, const Sums<kRows, kVecs> &sums,
                                        __mmask16 last)
    {
        const TileView &tile = *job.job.tile;
        const auto tokens = static_cast<size_t>(tile.tokens);
        repeat<kVecs>(VKV_EACH(b) {
            const uint16_t *p = tile.k_scale + t0 + b * 16 + (is_rotated(kCodec) ? 0 : static_cast<size_t>(group) * tokens);
            const __mmask16 lanes = b + 1 < kVecs ? 0xFFFF : last;
            const __m512 factor = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, p));
            __m512 offset = {};
            if constexpr (is_uniform(kCodec))
                offset =
                    _mm512_fmadd_ps(factor, _mm512_set1_ps(kZero),
                                    _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, p + static_cast<size_t>(groups) * tokens)));
            repeat<kRows>(VKV_EACH(r) {
                float *out = job.out + static_cast<size_t>(r) * job.stride + t0 + b * 16;
                __m512 score = _mm512_mul_ps(joined(sums[r][0][b], sums[r][1][b], sums[r][2][b]), factor);
                if constexpr (is_uniform(kCodec)) {
                    const int32_t *s = job.queries.digit_sums + (static_cast<size_t>(r) * job.queries.stride / kRowPad + group) * 4;
                    const float q_sum =
                        (static_cast<float>(s[2]) * 256.0f + static_cast<float>(s[1])) * 256.0f + static_cast<float>(s[0]);
                    score = _mm512_fmadd_ps(offset, _mm512_set1_ps(q_sum), score);
                }
                score = _mm512_mul_ps(score, _mm512_set1_ps(job.queries.steps[r]));
                _mm512_storeu_ps(out, group ? _mm512_add_ps(score, _mm512_loadu_ps(out)) : score);
            });
        });
    }

    template <int kRows>
    static void scores(const ScoreJob &job)
    {
        const __m512i table = levels_table(job.job, 0x80);
        const int tokens = job.job.tile->tokens;
        int t = 0;
        for (; t + 16 < tokens; t += 32) scores_block<kRows, 2>(job, t, table, lanes_below(tokens - t - 16));
        if (t < tokens) scores_block<kRows, 1>(job, t, table, lanes_below(tokens - t));
    }

    // ---- values ----

    // Weights times scales of a group as digits: [rows][kMostTokens / 4][4], and what a unit of them is worth.
    template <int kRows>
    struct Weights {
        alignas(64) uint32_t digits[kRows][kMostTokens];
        alignas(16) float unit[4];
        float offset[kRows];  // sum of weights times minima
    };

    static __m512 scales_part(const TileView &tile, int row, int t)
    {
        const uint16_t *p = tile.v_scale + static_cast<size_t>(row) * static_cast<size_t>(tile.tokens) + t;
        return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes_below(tile.tokens - t), p));
    }

    template <int kRows>
    static void weigh(const ValueJob &job, int group, int groups, Weights<kRows> &out)
    {
        const TileView &tile = *job.job.tile;
        const int tokens = tile.tokens, end = (tokens + C::kWidth - 1) / C::kWidth * C::kWidth;
        alignas(64) float scaled[kRows][kMostTokens];
        __m512 most[kRows], offset[kRows];
        repeat<kRows>(VKV_EACH(r) { most[r] = offset[r] = _mm512_setzero_ps(); });
        for (int t = 0; t < tokens; t += 16) {
            const __m512 factor = scales_part(tile, group, t);
            const __m512 least = is_uniform(kCodec) ? scales_part(tile, groups + group, t) : __m512{};
            repeat<kRows>(VKV_EACH(r) {
                const __m512 weight = _mm512_loadu_ps(job.weights + static_cast<size_t>(r) * job.stride + t);
                const __m512 product = _mm512_mul_ps(weight, factor);
                if constexpr (is_uniform(kCodec)) offset[r] = _mm512_fmadd_ps(weight, least, offset[r]);
                most[r] = _mm512_max_ps(most[r], product);
                _mm512_store_ps(scaled[r] + t, product);
            });
        }
        constexpr float kUnits = 16777214.0f;  // 2^24 - 2: rounding up stays below 2^24
        const __m128 largest_weights = largest_of<kRows>(most);
        const __mmask8 any = _mm_cmp_ps_mask(largest_weights, _mm_set1_ps(1e-30f), _CMP_GT_OQ);
        const __m512 inverses = _mm512_castps128_ps512(_mm_maskz_div_ps(any, _mm_set1_ps(kUnits), largest_weights));
        _mm_store_ps(out.unit, _mm_maskz_mul_ps(any, largest_weights, _mm_set1_ps(1 / kUnits)));
        __m512 inverse[kRows];
        repeat<kRows>(VKV_EACH(r) {
            if constexpr (is_uniform(kCodec)) out.offset[r] = _mm512_reduce_add_ps(offset[r]);
            inverse[r] = _mm512_permutexvar_ps(_mm512_set1_epi32(r), inverses);
        });
        int t = 0;
        for (; t < tokens; t += 16)
            repeat<kRows>(VKV_EACH(r) {
                const __m512i value = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(scaled[r] + t), inverse[r]));
                _mm512_store_si512(out.digits[r] + t, by_digits(value));
            });
        for (; t < end; t += 16) repeat<kRows>(VKV_EACH(r) { _mm512_store_si512(out.digits[r] + t, _mm512_setzero_si512()); });
    }

    template <int kRows, int kVecs>
    static void values_block(const ValueJob &job, int d0, __m512i table, __mmask16 last, const Weights<kRows> &weights)
    {
        const TileView &tile = *job.job.tile;
        const auto dims = static_cast<size_t>(tile.dim_v);
        const auto *words = reinterpret_cast<const uint32_t *>(tile.v) + d0;
        const auto *high_words = reinterpret_cast<const uint32_t *>(tile.v_high) + d0;
        Sums<kRows, kVecs> sums;
        repeat<kRows>(
            VKV_EACH(r) { repeat<3>(VKV_EACH(i) { repeat<kVecs>(VKV_EACH(b) { sums[r][i][b] = _mm512_setzero_si512(); }); }); });
        __m512i high[kVecs];
        repeat<kVecs>(VKV_EACH(b) { high[b] = _mm512_setzero_si512(); });
        Ahead ahead = *job.ahead;
        for (int t = 0; t < tile.tokens; t += C::kWidth, words += dims) {
            fetch<2 * kVecs>(ahead);
            __m512i x[kVecs];
            repeat<kVecs>(VKV_EACH(b) { x[b] = load_part<b.value + 1 == kVecs>(words + b * 16, last); });
            if constexpr (C::kHigh) {
                if (t % 32 == 0) {
                    const uint32_t *from = high_words + static_cast<size_t>(t / 32) * dims;
                    repeat<kVecs>(VKV_EACH(b) { high[b] = load_part<b.value + 1 == kVecs>(from + b * 16, last); });
                } else {
                    repeat<kVecs>(VKV_EACH(b) { high[b] = _mm512_srli_epi32(high[b], 4); });
                }
            }
            value_quads<kRows, kVecs>(x, high, t, table, weights, sums);
        }
        *job.ahead = ahead;
        repeat<kRows>(VKV_EACH(r) {
            repeat<kVecs>(VKV_EACH(b) {
                float *o = job.o + static_cast<size_t>(r) * job.o_stride + d0 + b * 16;
                __m512 value = _mm512_mul_ps(joined(sums[r][0][b], sums[r][1][b], sums[r][2][b]), _mm512_set1_ps(weights.unit[r]));
                if constexpr (is_uniform(kCodec)) value = _mm512_add_ps(value, _mm512_set1_ps(weights.offset[r]));
                _mm512_storeu_ps(o, _mm512_add_ps(_mm512_loadu_ps(o), value));
            });
        });
    }

    template <int kRows, int kVecs>
    static VKV_INLINE void value_quads(const __m512i (&x)[kVecs], const __m512i (&high)[kVecs], int t, __m512i table,
                                       const Weights<kRows> &weights, Sums<kRows, kVecs> &sums)
    {
        repeat<kQuads>(VKV_EACH(e) {
            __m512i codes[kVecs];
            repeat<kVecs>(VKV_EACH(b) {
                codes[b] = quad_codes<kCodec, e.value>(x[b], high[b], table);
                if constexpr (kCodec == Codec::int8) codes[b] = _mm512_xor_si512(codes[b], _mm512_set1_epi8(-128));
            });
            repeat<kRows>(VKV_EACH(r) {
                repeat<3>(VKV_EACH(i) {
                    const __m512i digit = splat_word(weights.digits[r] + t + 4 * e + i);
                    repeat<kVecs>(VKV_EACH(b) { add_products(sums[r][i][b], digit, codes[b]); });
                });
            });
        });
    }

    template <int kRows>
    static void values(const ValueJob &job)
    {
        const __m512i table = levels_table(job.job, 0);
        const int dim = job.job.tile->dim_v;
        const int groups = (dim + C::kGroup - 1) / C::kGroup;
        Weights<kRows> weights;
        for (int group = 0; group < groups; group++) {
            weigh<kRows>(job, group, groups, weights);
            int d = group * C::kGroup;
            const int end = dim - d < C::kGroup ? dim : d + C::kGroup;
            for (; d + 16 < end; d += 32) values_block<kRows, 2>(job, d, table, lanes_below(end - d - 16), weights);
            if (d < end) values_block<kRows, 1>(job, d, table, lanes_below(end - d), weights);
        }
    }
};
