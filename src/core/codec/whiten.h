// Codecs for the inner product that link by direction.
//
// The inner product is no metric. Of vectors with a common direction the longest are everybody's nearest: a graph that is linked by
// it leads to them and nowhere else. So neighbours are chosen by another distance of the same codes, without the common direction
// and with less weight on length, and searches compute the inner product:
//
//   y = L^-1 (x - mean),  L L' = covariance of a sample + a ridge         the same spread in all directions
//   linked by             -<z_a, z_b> (|y_a| |y_b|)^(3/4),  z = y / |y|
//   searched by           -<q, x> = -<q, mean> - |L'q| |y| <u, z>,  u = L'q / |L'q|
//
// With an exponent of 0 lengths would not count, and where they decide (queries like the vectors, lengths of their own) the graph
// would lead past the answer; with 1, there would be hubs again. docs/decisions.md has the measurements.
//
// A code is |y| (float) and the code of z, made by another codec for cosine distance, which may be any of the dense ones. Nothing
// is exact but what the caller computes from the vectors themselves.
//
//   model   0  u32 magic | u16 version | u16 shape | u32 dim | u32 rows of the sample | f64 scale | f32 mean[dim]
//           then, of L / scale
//              shape identity   nothing: there was no sample
//              shape diagonal   f32 stretch | f16 diagonal[dim] | f16 along[dim]     L = diagonal (I + (stretch - 1) a a'), a =
//              along / |along| shape triangle   f16 rows of the lower triangle, one after the other
//           then the model of the inner codec
#pragma once
#include <functional>

#include "core/codec/codec.h"

namespace vkv {

inline constexpr uint32_t kMaxWhitenDim = 2000;  // a triangle of 4 MB; beyond it, L is a diagonal, stretched along the mean

bool direction_supports(CodecId id, Scalar scalar, Metric metric);
// The codec of a model that a DirectionTrainer made. Throws Error(index_corrupted) if the model does not fit.
std::unique_ptr<Codec> make_direction_codec(CodecId id, Scalar scalar, uint32_t dim, std::span<const uint8_t> model);

// The model without that of its inner codec: as that of codec `none` over floats it gives the same distances of vectors themselves.
std::span<const uint8_t> direction_head(std::span<const uint8_t> model, uint32_t dim);

// What is known of directions by this model, in a word for users: "direction" (nothing), "scaled direction", "whitened direction".
const char *direction_name(std::span<const uint8_t> model);

// Looks at a sample and says whether linking by direction is called for. Deterministic; keeps some of the sample in memory.
class DirectionTrainer {
public:
    // poll() is called now and then during finish() and may throw.
    DirectionTrainer(Scalar scalar, uint32_t dim, std::function<void()> poll);
    void add(const VectorView &x);
    // Of lengths that differ, beside what the vectors differ by, or unknown, or so long or short that their products may leave
    // single precision: others are linked as well by the inner product, and at less cost.
    bool wanted() const;
    std::vector<uint8_t> finish(CodecId id);  // the model; valid also without a sample. May be called for several codecs.

private:
    void thin_out();
    double spread_square() const;
    void shorten();
    void whiten();
    std::vector<double> covariance(double scale) const;
    void factorize(std::vector<double> &matrix) const;
    void put_diagonal(const std::vector<double> &variance, double scale, uint8_t *factor) const;

    Scalar scalar_;
    uint32_t dim_;
    std::function<void()> poll_;
    uint64_t rows_ = 0, stride_ = 1;
    size_t most_rows_;
    double norm_mean_ = 0, norm_square_ = 0;  // Welford
    std::vector<float> sample_;               // [kept rows, dim]
    std::vector<uint8_t> head_;               // the model without its inner part, once made
};

}  // namespace vkv
