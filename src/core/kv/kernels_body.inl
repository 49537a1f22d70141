// Attention loops in vectors of kLanes floats (kernels_vec.inl), compiled once for each instruction set.

// ---- exp, softmax, soft cap -------------------------------------------------------------------------------------------------

constexpr float kLog2E = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
constexpr float kLeastExponent = -87.0f;

struct Reduced {
    Vec r, n;  // x = r + n ln 2, |r| <= ln 2 / 2
};
inline Reduced reduce(Vec x)
{
    const Vec n = rounded(x * kLog2E);
    return {(x - n * kLn2High) - n * kLn2Low, n};
}

// e^r - 1 - r over r^2, minimax for |r| <= ln 2 / 2: 3e-9 relative error of e^r.
inline Vec exp_tail(Vec r)
{
    Vec p = splat(0.0013814467f);
    p = p * r + 0.0083687808f;
    p = p * r + 0.0416683927f;
    p = p * r + 0.1666651964f;
    return p * r + 0.4999999404f;
}

// e^x for x <= 0, also -inf; 0 below kLeastExponent.
inline Vec exp_negative(Vec x)
{
    const Reduced a = reduce(vmax(x, splat(kLeastExponent)));
    const Vec e = (exp_tail(a.r) * (a.r * a.r) + a.r) + 1.0f;
    return zero_below(times_power(e, a.n), x, kLeastExponent);
}

// cap * tanh(x / cap), from e^2y - 1 so that small values keep their relative precision.
void softcap(float *x, size_t n, float cap)
{
    const IVec sign_bit = splat(INT32_MIN);
    for (size_t i = 0; i < n; i += kLanes) {
        const Vec value = load(x + i);
        const IVec sign = (IVec)value & sign_bit;
        const Vec twice = (Vec)((IVec)value ^ sign) * (2.0f / cap);
        const Reduced a = reduce(-vmax(-twice, splat(-40.0f)));
        const Vec power = times_power(splat(1.0f), a.n);
        const Vec minus_one = (exp_tail(a.r) * (a.r * a.r) + a.r) * power + (power - 1.0f);
        store(x + i, (Vec)((IVec)(minus_one / (minus_one + 2.0f) * cap) | sign));
    }
}

void scale(float *x, size_t n, float factor)
{
    for (size_t i = 0; i < n; i += kLanes) store(x + i, load(x + i) * factor);
}

void shift(float *x, size_t n, float by)
{
    for (size_t i = 0; i < n; i += kLanes) store(x + i, load(x + i) + by);
}

// The scores of one row become weights. Whether m grows is asked of all lanes at once; only then are lanes reduced.
inline void softmax_row(const SoftmaxJob &job, int row, bool &grew)
{
    constexpr float kNothing = -__builtin_inff();
    float *s = job.scores + static_cast<size_t>(row) * job.stride;
    const int whole = job.tokens / kLanes * kLanes, rest = job.tokens - whole;
    Vec last = splat(kNothing);
    if (rest) last = first_lanes(load(s + whole), rest, kNothing);
    Vec most = last;
    for (int t = 0; t < whole; t += kLanes) most = vmax(most, load(s + t));
    float m = job.m[row];
    Vec total = load(job.l + row * kBlock);
    job.factors[row] = 1.0f;
    if (any_greater(most, splat(m))) {
        const float now = largest(most), factor = exp_negative(splat(m - now))[0];
        job.m[row] = m = now;
        job.factors[row] = factor;
        total *= factor;
        for (int i = kLanes; i < kBlock; i += kLanes) store(job.l + row * kBlock + i, load(job.l + row * kBlock + i) * factor);
        grew = true;
    }
    const Vec base = splat(m == kNothing ? 0.0f : m);  // nothing seen: e^(-inf - 0) = 0
    for (int t = 0; t < whole; t += kLanes) {
        const Vec p = weight(load(s + t) - base);
        total += p;
        store(s + t, p);
    }
    int end = whole;
    if (rest) {
        const Vec p = weight(last - base);
        total += p;
        store(s + whole, p);
        end += kLanes;
    }
    for (; end < static_cast<int>(job.stride); end += kLanes) store(s + end, splat(0.0f));
    store(job.l + row * kBlock, total);
}

inline bool softmax(const SoftmaxJob &job)
{
    bool grew = false;
    for (int row = 0; row < job.rows; row++) softmax_row(job, row, grew);
    return grew;
}

// ---- halves, where they lie -------------------------------------------------------------------------------------------------
// Registers hold pairs: of dims for keys, of tokens for values. The two sums of a pair are added once, at the end.

constexpr int kPairs = kLanes / 2;  // words a vector

template <int kRows, int kVecs>
void f16_scores_block(const ScoreJob &job, int t0, int words_last)
{
    const TileView &tile = *job.job.tile;
    const auto tokens = static_cast<size_t>(tile.tokens);
    const uint32_t *k = reinterpret_cast<const uint32_t *>(tile.k) + t0;
    const float *q = job.queries.q;
    const size_t stride = job.queries.stride;
    Vec sums[kRows][kVecs];
    repeat<kRows>(VKV_EACH(r) { repeat<kVecs>(VKV_EACH(i) { sums[r][i] = Vec{}; }); });
    const int words = (tile.dim_k + 1) / 2;
    Ahead ahead = *job.ahead;
    for (int g = 0; g < words; g++, k += tokens, q += 2) {
        fetch<2>(ahead);
        Vec x[kVecs];
        repeat<kVecs - 1>(VKV_EACH(i) { x[i] = halves(k + i * kPairs); });
        x[kVecs - 1] = halves(k + (kVecs - 1) * kPairs, words_last);
        repeat<kRows>(VKV_EACH(r) {
            const Vec pair = splat_pair(q + static_cast<size_t>(r) * stride);
            repeat<kVecs>(VKV_EACH(i) { sums[r][i] += x[i] * pair; });
        });
    }
    *job.ahead = ahead;
    repeat<kRows>(VKV_EACH(r) {
        float *out = job.out + static_cast<size_t>(r) * job.stride + t0;
        repeat<kVecs / 2>(VKV_EACH(i) { store(out + i * kLanes, pair_sums(sums[r][2 * i], sums[r][2 * i + 1])); });
        if constexpr (kVecs % 2) store(out + (kVecs - 1) * kPairs, pair_sums(sums[r][kVecs - 1], Vec{}));
    });
}

template <int kRows>
void f16_scores(const ScoreJob &job)
{
    constexpr int kMost = kLanes == 16 ? 4 : kRows <= 3 ? 3 : 2;  // vectors of tokens that leave registers for the sums
    const int tokens = job.job.tile->tokens;
    for (int t = 0; t < tokens;) {
        const int left = tokens - t, vecs = (left + kPairs - 1) / kPairs;
        if (vecs >= kMost) {
            f16_scores_block<kRows, kMost>(job, t, left >= kMost * kPairs ? kPairs : left - (kMost - 1) * kPairs);
            t += kMost * kPairs;
        } else if (kMost > 2 && vecs >= 2) {
            f16_scores_block<kRows, 2>(job, t, left >= 2 * kPairs ? kPairs : left - kPairs);
            t += 2 * kPairs;
        } else {
            f16_scores_block<kRows, 1>(job, t, left >= kPairs ? kPairs : left);
            t += kPairs;
        }
    }
}

// kWhole: kVecs vectors of words from d0 on; else the last of them has words_last words.
template <int kRows, int kVecs, bool kWhole>
void f16_values_block(const ValueJob &job, int d0, int words_last)
{
    const TileView &tile = *job.job.tile;
    const uint32_t *v = reinterpret_cast<const uint32_t *>(tile.v) + d0;
    const float *p = job.weights;
    const size_t stride = job.stride;
    Vec sums[kRows][kVecs];
    repeat<kRows>(VKV_EACH(r) { repeat<kVecs>(VKV_EACH(i) { sums[r][i] = Vec{}; }); });
    const int words = (tile.tokens + 1) / 2;
    Ahead ahead = *job.ahead;
    for (int g = 0; g < words; g++, v += tile.dim_v, p += 2) {
        fetch<(kVecs + 1) / 2>(ahead);
        Vec pair[kRows];
        repeat<kRows>(VKV_EACH(r) { pair[r] = splat_pair(p + static_cast<size_t>(r) * stride); });
        repeat<kVecs>(VKV_EACH(i) {
            const Vec x = kWhole || i + 1 < kVecs ? halves(v + i * kPairs) : halves(v + i * kPairs, words_last);
            repeat<kRows>(VKV_EACH(r) { sums[r][i] += x * pair[r]; });
        });
    }
    *job.ahead = ahead;
    repeat<kRows>(VKV_EACH(r) {
        float *o = job.o + static_cast<size_t>(r) * job.o_stride + d0;
        repeat<kVecs / 2>(
            VKV_EACH(i) { store(o + i * kLanes, load(o + i * kLanes) + pair_sums(sums[r][2 * i], sums[r][2 * i + 1])); });
        if constexpr (kVecs % 2) {
            const Vec half = pair_sums(sums[r][kVecs - 1], Vec{});
            for (int d = 0; d < kPairs; d++) o[(kVecs - 1) * kPairs + d] += half[d];
        }
    });
}

template <int kRows, int kVecs>
inline void f16_values_part(const ValueJob &job, int d)
{
    const int left = job.job.tile->dim_v - d;
    if (left >= kVecs * kPairs)
        f16_values_block<kRows, kVecs, true>(job, d, kPairs);
    else
        f16_values_block<kRows, kVecs, false>(job, d, left - (kVecs - 1) * kPairs);
}

template <int kRows>
void f16_values(const ValueJob &job)
{
    constexpr int kMost = kLanes == 16 ? (kRows <= 3 ? 8 : 6) : kRows <= 3 ? 4 : 2;  // sums that leave registers for the rest
    const int dim = job.job.tile->dim_v;
    for (int d = 0; d < dim;) {
        const int vecs = (dim - d + kPairs - 1) / kPairs;
        if (vecs >= kMost) {
            f16_values_part<kRows, kMost>(job, d);
            d += kMost * kPairs;
        } else if (kMost > 4 && vecs >= 4) {
            f16_values_part<kRows, 4>(job, d);
            d += 4 * kPairs;
        } else if (vecs >= 2) {
            f16_values_part<kRows, 2>(job, d);
            d += 2 * kPairs;
        } else {
            f16_values_part<kRows, 1>(job, d);
            d += kPairs;
        }
    }
}

// The function for a number of rows, at most kRowsAtOnce.
#define VKV_BY_ROWS(function)            \
    [](const auto &job) {                \
        switch (rows_of(job)) {          \
            case 1:                      \
                return function<1>(job); \
            case 2:                      \
                return function<2>(job); \
            case 3:                      \
                return function<3>(job); \
            default:                     \
                return function<4>(job); \
        }                                \
    }
inline int rows_of(const ScoreJob &job) { return job.queries.rows; }
inline int rows_of(const ValueJob &job) { return job.rows; }
