// Attention over tiles: every codec, shape, mask and instruction set against float64 on the decoded tiles, and the algebra of
// states.
#include "core/kv/attend.h"

#include <gtest/gtest.h>

#include <string>

#include "core/error.h"
#include "core/simd/kernels.h"
#include "kv_attend_cases.h"

namespace vkv::kv {
namespace {

constexpr double kBudget = 1e-5;

constexpr Codec kAll[] = {Codec::f16,      Codec::int8,     Codec::uniform4, Codec::uniform3,
                          Codec::uniform2, Codec::rotated4, Codec::rotated3, Codec::rotated2};

class EachLevel : public testing::TestWithParam<simd::Level> {
protected:
    void SetUp() override
    {
        before_ = simd::active_level();
        if (!simd::supported(GetParam())) GTEST_SKIP() << "this processor has not " << simd::level_name(GetParam());
        simd::set_level(GetParam());
    }
    void TearDown() override { simd::set_level(before_); }

private:
    simd::Level before_ = simd::Level::scalar;
};

struct Case {
    TileShape shape;
    int rows = 1, tokens = 1, a_tile = 0;
    float softcap = 0, q_size = 1, k_size = 1;
    uint32_t seed = 1;
};

std::string text(const Case &c)
{
    return std::string(codec_name(c.shape.codec)) + " (" + std::to_string(static_cast<int>(c.shape.codec)) + ") dims " +
           std::to_string(c.shape.dim_k) + "/" + std::to_string(c.shape.dim_v) + " flags " + std::to_string(c.shape.flags) +
           " rows " + std::to_string(c.rows) + " tokens " + std::to_string(c.tokens);
}

float usual_scale(const Case &c) { return 1 / std::sqrt(static_cast<float>(c.shape.dim_k)); }

// Error of the state of all tokens of a case.
double error_of(const Case &c, const Selection &selection = {})
{
    const KvData data(c.tokens, c.shape.dim_k, c.shape.dim_v, c.seed, c.k_size);
    const std::vector<float> q = random_queries(c.rows, c.shape.dim_k, c.seed + 1, c.q_size);
    Queries queries;
    queries.set(q.data(), c.rows, c.shape.dim_k, usual_scale(c), c.softcap);
    Accumulator sum;
    sum.reset(c.rows, c.shape.dim_v);
    Reference reference(c.rows, c.shape.dim_v);
    double worst = 0;
    for (const Tile &tile : make_tiles(c.shape, c.tokens, data, c.a_tile)) {
        const TileView view = tile.view();
        sum.add(queries, view, selection);
        reference.add(q.data(), static_cast<double>(usual_scale(c)), static_cast<double>(c.softcap), view, selection);
        std::vector<float> got(static_cast<size_t>(c.rows) * static_cast<size_t>(view.tokens));
        logits(queries, view, selection, got.data());
        for (size_t i = 0; i < got.size(); i++) {
            const double expected = reference.logits[i];
            if (std::isinf(expected) || std::isinf(got[i]))
                EXPECT_EQ(static_cast<double>(got[i]), expected) << text(c) << " logit " << i;
            else
                worst = std::max(worst, std::fabs(static_cast<double>(got[i]) - expected) / std::max(8.0, std::fabs(expected)));
        }
    }
    const State state(sum, c.rows, c.shape.dim_v);
    return std::max(worst, reference.error(state.m.data(), state.l.data(), state.o.data()));
}

TEST_P(EachLevel, EveryCodecAndShape)
{
    for (const Codec codec : kAll)
        for (const int dim : {1, 2, 20, 64, 80, 96, 128, 129, 256, 1024}) {
            const TileShape shape{codec, 0, dim, dim, 1};
            if (dim == 1024 && bits_of(codec) == 3) continue;  // no token has room: words of 32 tokens are too many
            const int full = tile_capacity(shape);
            for (const int tokens : {1, 2, 15, 31, full, 2 * full + 3})
                for (const int rows : {1, 3, 4, 9}) {
                    if (static_cast<int64_t>(tokens) * dim * rows > 400000) continue;
                    const Case c{shape, rows, tokens};
                    EXPECT_LE(error_of(c), kBudget) << text(c);
                }
        }
}

TEST_P(EachLevel, ManyRows)
{
    for (const Codec codec : kAll)
        for (const int rows : {2, 5, 8, 16, 17, 33, 70, 200}) {
            const Case c{{codec, 0, 64, 64, 1}, rows, 300};
            EXPECT_LE(error_of(c), kBudget) << text(c);
        }
}

TEST_P(EachLevel, KeysAndValuesOfDifferentDimensions)
{
    for (const Codec codec : kAll)
        for (const auto &[dim_k, dim_v] : {std::pair{192, 128}, {64, 200}, {3, 40}, {40, 3}}) {
            const Case c{{codec, 0, dim_k, dim_v, 1}, 5, 150};
            EXPECT_LE(error_of(c), kBudget) << text(c);
        }
}

TEST_P(EachLevel, ValuesInKeys)
{
    for (const Codec codec : kAll)
        for (const auto &[dim_k, dim_v] : {std::pair{576, 512}, {64, 64}, {20, 7}, {100, 1}}) {
            const Case c{{codec, kValuesInKeys, dim_k, dim_v, 1}, 17, 60};
            EXPECT_LE(error_of(c), kBudget) << text(c);
        }
}

TEST_P(EachLevel, Softcap)
{
    for (const Codec codec : {Codec::f16, Codec::int8, Codec::rotated4})
        for (const float cap : {0.5f, 20.0f, 50.0f}) {
            Case c{{codec, 0, 64, 64, 1}, 3, 200};
            c.softcap = cap;
            c.q_size = 4;
            EXPECT_LE(error_of(c), kBudget) << text(c) << " cap " << cap;
        }
}

TEST_P(EachLevel, LargeLogits)
{
    for (const Codec codec : kAll)
        for (const float size : {0.0f, 1e-4f, 5.0f, 25.0f}) {
            Case c{{codec, 0, 64, 64, 1}, 4, 500};
            c.q_size = size;  // logits of up to 4 * size
            EXPECT_LE(error_of(c), kBudget) << text(c) << " size " << size;
        }
}

TEST_P(EachLevel, KeysOfAnySize)
{
    for (const Codec codec : kAll)
        for (const float size : {0.0f, 1e-6f, 1e-3f, 1000.0f}) {
            Case c{{codec, 0, 64, 64, 1}, 3, 200};
            c.k_size = size;
            c.q_size = size > 1 ? 1 / size : 1;
            EXPECT_LE(error_of(c), kBudget) << text(c) << " size " << size;
        }
}

TEST_P(EachLevel, KeysBeforeRope)
{
    for (const Codec codec : kAll)
        for (const Pairing pairing : {Pairing::half, Pairing::interleaved})
            for (const auto &[dim, turned] : {std::pair{64, 64}, {80, 32}, {6, 2}, {96, 0}}) {
                const Rope rope(Rope::usual_frequencies(10000, turned), dim, pairing);
                Selection selection;
                selection.rope = &rope;
                const Case c{{codec, kKeysBeforeRope, dim, dim, 1}, 5, 400};
                EXPECT_LE(error_of(c, selection), kBudget) << text(c) << " turned " << turned;
                const Case shared{{codec, kKeysBeforeRope | kValuesInKeys, dim, dim / 2, 1}, 5, 100};
                EXPECT_LE(error_of(shared, selection), kBudget) << text(shared) << " turned " << turned;
            }
}

// Masks: windows, sinks, causal rows, clipped tiles, and rows that see nothing.
TEST_P(EachLevel, Masks)
{
    const std::vector<Sight> causal = {{0, 100}, {0, 101}, {0, 102}, {0, 103}, {0, 104}};
    const std::vector<Sight> mixed = {{0, INT32_MAX}, {50, 90}, {70, 70}, {90, 60}, {119, 200}, {0, 1}, {0, 0}, {200, INT32_MAX}};
    for (const Codec codec : {Codec::f16, Codec::int8, Codec::uniform3, Codec::rotated4})
        for (const uint8_t flags : {0, static_cast<int>(kValuesInKeys)})
            for (const auto &[from, to] : {std::pair{0, INT32_MAX}, {0, 77}, {40, 80}, {31, 31}, {62, 20}, {119, 120}})
                for (const int sinks : {0, 1, 4, 60, 500})
                    for (const auto *sights : {&causal, &mixed}) {
                        Selection selection{from, to, sights->data(), sinks, nullptr};
                        const Case c{{codec, flags, 64, 64, 1}, static_cast<int>(sights->size()), 120};
                        EXPECT_LE(error_of(c, selection), kBudget) << text(c) << " [" << from << ", " << to << ") sinks " << sinks
                                                                   << (sights == &mixed ? " mixed" : " causal");
                        selection.sights = nullptr;
                        EXPECT_LE(error_of(c, selection), kBudget) << text(c) << " [" << from << ", " << to << ")";
                    }
}

INSTANTIATE_TEST_SUITE_P(Levels, EachLevel,
                         testing::Values(simd::Level::scalar, simd::Level::neon, simd::Level::avx2, simd::Level::avx512),
                         [](const auto &info) { return std::string(simd::level_name(info.param)); });

}  // namespace
}  // namespace vkv::kv
