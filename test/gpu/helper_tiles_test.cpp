// What is found out about the tiles that clients bring: kernels believe headers, so a tile gets to the device only if it is the one
// that was named, of the request's shape, whole, and stays so while it is copied.
#include <gtest/gtest.h>

#include "scheduler_cases.h"

namespace vkv::gpu {
namespace {

using offload::Entry;

const Shape kShape{kv::Codec::int8, 2, 64, 32, 10};
constexpr TileKind kAsShape{64, 32, 2, 0};

// Changes a tile's header when it has been copied.
class Meddler : public GatedDevice {
public:
    using GatedDevice::GatedDevice;
    void copy(std::span<const Copy> all) override
    {
        GatedDevice::copy(all);
        static_cast<kv::TileHeader *>(const_cast<void *>(all[0].slab))->tokens++;
    }
};

// The fault that is found in the extent's second tile when it is brought as this one.
std::string fault(Device *device, const Extent &extent, const Entry &named, const TileKind &kind)
{
    std::vector<uint64_t> slab(offload::kSlabBytes / sizeof(uint64_t));
    extent.copy(extent.entries()[1].id, slab.data());
    CopyRound round;
    round.kind = kind;
    round.fills.push_back({0, 0, named});
    round.copies.push_back({slab.data(), 0});
    copy_round(device, &round);
    EXPECT_EQ(round.device_error, "");
    return round.bad_tile;
}

TEST(HelperTiles, AreTheOnesThatWereNamed)
{
    const Extent extent(kShape, 30, 20, 1);
    GatedDevice device(1);
    const Entry right = extent.entries()[1];
    EXPECT_EQ(fault(&device, extent, right, kAsShape), "");
    for (const auto change : {+[](Entry *e) { e->id++; }, +[](Entry *e) { e->first++; }, +[](Entry *e) { e->tokens--; },
                              +[](Entry *e) { e->head--; }}) {
        Entry wrong = right;
        change(&wrong);
        EXPECT_EQ(fault(&device, extent, wrong, kAsShape), "the tile of head " + std::to_string(wrong.head) + " at position " +
                                                               std::to_string(wrong.first) + " is not the one that was named");
    }
}

TEST(HelperTiles, HaveTheShapeOfTheRequest)
{
    const Extent extent(kShape, 30, 20, 1);
    GatedDevice device(1);
    for (const TileKind &kind :
         {TileKind{32, 32, 2, 0}, TileKind{64, 64, 2, 0}, TileKind{64, 32, 3, 0}, TileKind{64, 32, 2, kv::kValuesInKeys}})
        EXPECT_EQ(fault(&device, extent, extent.entries()[1], kind),
                  "the tile of head 1 at position 30 has another shape than the request says");
}

TEST(HelperTiles, StayWhatTheyAre)
{
    Extent extent(kShape, 30, 20, 1);
    Meddler meddler(1);
    EXPECT_EQ(fault(&meddler, extent, extent.entries()[1], kAsShape),
              "the tile of head 1 at position 30 changed while it was copied");
    extent.damage(1);
    GatedDevice device(1);
    EXPECT_EQ(fault(&device, extent, extent.entries()[1], kAsShape),
              "the tile of head 1 at position 30 is damaged: its checksum is wrong");
}

}  // namespace
}  // namespace vkv::gpu
