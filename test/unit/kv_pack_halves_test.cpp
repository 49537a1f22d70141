// Packed halves: every bit comes back, whatever it is; real keys and values take 14.2 bits; damage is noticed and nothing is read
// or written beyond the ends.
#include "core/kv/pack_halves.h"

#include <memory>
#include <numeric>

#include "kv_rows.h"

namespace vkv::kv {
namespace {

using Packed = std::vector<uint8_t>;

Packed pack(const Halves &values, const RowShape &shape)
{
    Packed out(packed_bound(shape) + 8, 0xA5);
    const size_t bytes = pack_halves(values.data(), shape, out.data());
    EXPECT_LE(bytes, packed_bound(shape));
    for (size_t i = packed_bound(shape); i < out.size(); ++i) EXPECT_EQ(out[i], 0xA5) << i;
    out.resize(bytes);
    return out;
}

// From memory of exactly that size, so that the address sanitizer sees reads beyond it.
Halves unpack(const Packed &packed, int first, int count)
{
    const std::unique_ptr<uint8_t[]> bytes(new uint8_t[packed.size()]);
    std::copy(packed.begin(), packed.end(), bytes.get());
    const PackedRow row(bytes.get(), packed.size());
    Halves values(static_cast<size_t>(count) * static_cast<size_t>(row.shape().width));
    row.read(first, count, values.data());
    return values;
}

void expect_round_trip(const Halves &values, const RowShape &shape)
{
    const Packed packed = pack(values, shape);
    const PackedRow row(packed.data(), packed.size());
    ASSERT_EQ(row.shape().slots, shape.slots);
    ASSERT_EQ(row.shape().width, shape.width);
    ASSERT_EQ(unpack(packed, 0, shape.slots), values) << shape.slots << " x " << shape.width;
    for (int slot = 0; slot < shape.slots; slot += 1 + shape.slots / 7) {
        const auto from = values.begin() + static_cast<ptrdiff_t>(slot) * shape.width;
        ASSERT_EQ(unpack(packed, slot, 1), Halves(from, from + shape.width)) << "slot " << slot;
    }
}

// Keys and values of a token side by side, a slot a layer and head of the sample.
Halves real_row(const Halves &k, const Halves &v, int token)
{
    Halves row;
    for (int slot = 0; slot < 6; ++slot)
        for (const Halves *side : {&k, &v}) {
            const auto from = side->begin() + (slot * 1024 + token) * 64;
            row.insert(row.end(), from, from + 64);
        }
    return row;
}

TEST(PackHalves, RealKeysAndValuesTakeAtMost14Bits3)
{
    const Halves k = sample_of("k_post"), v = sample_of("v");
    size_t bytes = 0, values = 0;
    for (int token = 0; token < 1024; ++token) {
        const Halves row = real_row(k, v, token);
        expect_round_trip(row, {6, 128});
        bytes += pack(row, {6, 128}).size() - kPackedHeader;
        values += row.size();
    }
    EXPECT_LE(8 * static_cast<double>(bytes) / static_cast<double>(values), 14.25);
}

TEST(PackHalves, EveryPatternComesBack)
{
    Halves all(65536);
    std::iota(all.begin(), all.end(), 0);
    expect_round_trip(all, {512, 128});
    // One pattern among others that are alike, at every place of a block.
    for (uint32_t pattern = 0; pattern < 65536; ++pattern) {
        Halves block(64, 0x3C00);
        block[pattern % 64] = static_cast<uint16_t>(pattern);
        const Packed packed = pack(block, {1, 64});
        ASSERT_EQ(packed[0], 2);
        ASSERT_EQ(unpack(packed, 0, 1), block) << pattern;
    }
}

TEST(PackHalves, EveryShape)
{
    for (int width = 1; width <= 260; ++width)
        for (int slots : {1, 2, 5})
            expect_round_trip(normal_halves(static_cast<size_t>(slots * width), static_cast<uint32_t>(width)), {slots, width});
    expect_round_trip(normal_halves(65535, 3), {1, 65535});
    expect_round_trip(normal_halves(65535, 4), {65535, 1});
}

TEST(PackHalves, NoiseAndExtremesNeverGrow)
{
    std::mt19937 random(5);
    for (int n : {1, 7, 64, 65, 128, 200, 1024}) {
        Halves noise(static_cast<size_t>(3 * n));
        for (uint16_t &half : noise) half = static_cast<uint16_t>(random());
        expect_round_trip(noise, {3, n});
        // Every number of exceptions there can be in a block.
        for (int exceptions = 0; exceptions <= std::min(n, 64); ++exceptions) {
            Halves values(static_cast<size_t>(n), 0x4000);
            for (int i = 0; i < exceptions; ++i) values[static_cast<size_t>(i)] = static_cast<uint16_t>(random() & 0x83FF);
            expect_round_trip(values, {1, n});
        }
    }
    for (int half : {0x0000, 0x8000, 0x0001, 0x83FF, 0x7BFF, 0xFBFF, 0x7C00, 0xFE01, 0x3C00})
        expect_round_trip(Halves(300, static_cast<uint16_t>(half)), {3, 100});
    const Halves same(64 * 30, 0xBC00);
    EXPECT_EQ(pack(same, {30, 64}).size(), kPackedHeader + 30 * (1 + 64 + 48));
    Halves spread(128);  // exponents too far apart for any seven of them to be most
    for (size_t i = 0; i < spread.size(); ++i) spread[i] = static_cast<uint16_t>(i % 31 << 10);
    EXPECT_EQ(pack(spread, {1, 128})[0], 0);
    EXPECT_EQ(pack(spread, {1, 128}).size(), packed_bound({1, 128}));
}

// What opens and reads, or says that it is damaged; anything else is a fault.
bool reads(const Packed &packed)
{
    try {
        const std::unique_ptr<uint8_t[]> bytes(new uint8_t[packed.size()]);
        std::copy(packed.begin(), packed.end(), bytes.get());
        const PackedRow row(bytes.get(), packed.size());
        Halves values(row.shape().values());
        row.read(0, row.shape().slots, values.data());
        return true;
    } catch (const Error &error) {
        EXPECT_EQ(error.code(), Errc::data_corrupted);
        EXPECT_EQ(error.message().rfind("packed halves are damaged: ", 0), 0u) << error.message();
        return false;
    }
}

TEST(PackHalves, TruncatedOrLongerIsDamaged)
{
    const Halves k = sample_of("k_post"), v = sample_of("v");
    Halves odd = normal_halves(3 * 77, 6);
    for (size_t i = 0; i < odd.size(); i += 9) odd[i] = 0;
    Halves noise(40);
    std::mt19937 random(7);
    for (uint16_t &half : noise) half = static_cast<uint16_t>(random());
    for (const Packed &packed : {pack(real_row(k, v, 100), {6, 128}), pack(odd, {3, 77}), pack(noise, {2, 20})}) {
        ASSERT_TRUE(reads(packed));
        for (size_t size = 0; size < packed.size(); ++size)
            ASSERT_FALSE(reads(Packed(packed.begin(), packed.begin() + static_cast<ptrdiff_t>(size)))) << size;
        Packed longer = packed;
        longer.push_back(0);
        EXPECT_FALSE(reads(longer));
    }
}

TEST(PackHalves, DamageIsNoticedOrChangesValuesOnly)
{
    const Halves k = sample_of("k_post"), v = sample_of("v");
    const Packed good = pack(real_row(k, v, 5), {6, 128});
    int noticed = 0;
    for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
        Packed bad = good;
        bad[bit / 8] = static_cast<uint8_t>(bad[bit / 8] ^ 1 << bit % 8);
        noticed += !reads(bad);
    }
    EXPECT_GT(noticed, 8 * static_cast<int>(kPackedHeader) - 8);  // header and numbers of exceptions at least
    std::mt19937 random(8);
    for (int round = 0; round < 20000; ++round) {
        Packed bad = good;
        for (int changes = 1 + static_cast<int>(random() % 4); changes > 0; --changes)
            bad[random() % (round % 2 ? 24 : bad.size())] = static_cast<uint8_t>(random());
        if (round % 3 == 0) bad.resize(random() % (bad.size() + 1));
        reads(bad);
    }
}

}  // namespace
}  // namespace vkv::kv
