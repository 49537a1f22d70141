// Builds tiles: sets up the two planes as jobs for the encoder of this processor and closes the header over them.
#include <climits>
#include <cstring>

#include "core/kv/encode.h"
#include "core/kv/levels.h"
#include "core/kv/rotation.h"
#include "core/kv/tile_layout.h"

namespace vkv::kv {
namespace {

static_assert(kMaxEncodeDim == kMaxHeadDim);

struct Workspace {
    alignas(64) float x[size_t{kMaxHeadDim} * kLanes];
    alignas(64) uint8_t bytes[size_t{kMaxHeadDim} * kLanes];
};

LevelTable level_table(int bits)
{
    LevelTable table;
    const int count = 1 << (bits - 1);
    for (int i = 0; i < count - 1; ++i) table.thresholds[i] = level_thresholds(bits)[i];
    for (int i = 0; i < count; ++i) table.levels[i] = levels(bits)[count + i];
    table.unit = level_unit(bits);
    return table;
}

Coding coding_of(Codec codec)
{
    if (codec == Codec::f16) return Coding::halves;
    if (codec == Codec::int8) return Coding::int8;
    return is_uniform(codec) ? Coding::uniform : Coding::rotated;
}

void check_place(const TileShape &shape, int head, int32_t first, int tokens)
{
    const int capacity = tile_capacity(shape);
    if (tokens < 1 || tokens > capacity)
        throw Error(Errc::invalid_parameter,
                    std::to_string(tokens) + " tokens are outside the valid range 1 to " + std::to_string(capacity) + " of a tile");
    if (head < 0 || head >= shape.heads)
        throw Error(Errc::invalid_parameter,
                    "head " + std::to_string(head) + " is outside the valid range 0 to " + std::to_string(shape.heads - 1));
    if (first < 0 || first > INT32_MAX - tokens)
        throw Error(Errc::invalid_parameter, std::to_string(tokens) + " tokens at position " + std::to_string(first) +
                                                 " are outside the valid positions 0 to 2147483646");
}

void write_means(const Mean *means, const TileShape &shape, uint8_t *out)
{
    const size_t count = static_cast<size_t>(shape.means), width = channel_bytes(shape);
    for (size_t i = 0; i < count; ++i) {
        std::memcpy(out + i * sizeof means[i].value, &means[i].value, sizeof means[i].value);
        std::memcpy(out + count * sizeof means[i].value + i * width, &means[i].channel, width);  // little-endian
    }
}

MeanCounts means_of(const PlaneEncoder &encoder, const TileShape &shape, int tokens, Rows k, Rows v, Mean *out)
{
    const int room = most_means(shape, tokens);
    if (room == 0) return {};
    PlaneSums sums_k, sums_v;
    PlaneJob job;
    job.tokens = tokens;
    const auto measured = [&](int dim, Rows rows, PlaneSums *sums) -> MeasuredPlane {
        job.dim = dim;
        job.data = rows.data;
        job.stride = rows.stride;
        encoder.measure(job, sums);
        return {sums, dim, tokens, is_uniform(shape.codec) ? kUniformGroup : 0};
    };
    const MeasuredPlane keys = measured(shape.dim_k, k, &sums_k);
    return choose_means(keys, (shape.flags & kValuesInKeys) ? MeasuredPlane{} : measured(shape.dim_v, v, &sums_v), room, out);
}

}  // namespace

const PlaneEncoder &plane_encoder(simd::Level level)
{
#if defined(__x86_64__)
    if (level == simd::Level::avx512) return kAvx512Encoder;
    if (level == simd::Level::avx2) return kAvx2Encoder;
#endif
    static_cast<void>(level);
    return kScalarEncoder;
}

size_t encode_tile(const TileShape &asked, int head, int32_t first, int tokens, Rows k, Rows v, void *out)
{
    TileShape shape = asked;
    shape.means = 0;
    check_shape(shape);
    check_place(shape, head, first, tokens);
    const PlaneEncoder &encoder = plane_encoder(simd::active_level());
    Mean means[kMostMeans];
    const MeanCounts counts = means_of(encoder, shape, tokens, k, v, means);
    shape.means = counts.all;
    const TileLayout at = tile_layout(shape, tokens);
    auto *planes = static_cast<uint8_t *>(out) + kTileHeaderBytes;
    std::memset(planes, 0, at.end);
    write_means(means, shape, planes + at.means);

    Workspace space;
    PlaneJob job;
    job.coding = coding_of(shape.codec);
    job.bits = bits_of(shape.codec);
    job.tokens = tokens;
    job.x = space.x;
    job.bytes = space.bytes;
    if (is_rotated(shape.codec)) {
        job.signs[0] = rotation_signs(0);
        job.signs[1] = rotation_signs(1);
        job.levels = level_table(bits_of(shape.codec));
    }

    job.dim = shape.dim_k;
    job.means = means;
    job.mean_count = counts.k;
    job.data = k.data;
    job.stride = k.stride;
    job.codes = planes + at.k;
    job.high = planes + at.k_high;
    job.scales = reinterpret_cast<uint16_t *>(planes + at.k_scale);
    encoder.encode(job);
    if (!(shape.flags & kValuesInKeys)) {
        job.along_tokens = true;
        job.dim = shape.dim_v;
        job.means = means + counts.k;
        job.mean_count = counts.all - counts.k;
        job.data = v.data;
        job.stride = v.stride;
        job.codes = planes + at.v;
        job.high = planes + at.v_high;
        job.scales = reinterpret_cast<uint16_t *>(planes + at.v_scale);
        encoder.encode(job);
    }
    finish_tile(shape, {head, first, tokens, counts.k}, out);
    return kTileHeaderBytes + at.end;
}

}  // namespace vkv::kv
