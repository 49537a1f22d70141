// What `auto` decides by: the helper is asked where its three figures promise less time than the call takes here, and never before
// both sides are known.
#include "core/offload/crossover.h"

#include <gtest/gtest.h>

namespace vkv::offload {
namespace {

constexpr HelperSpeed kHelper{10000, 1000000000, 100000000};  // 10 us, 1 GB/s, copied at 100 MB/s

TEST(Crossover, TheHelpersTimeIsItsLaunchItsReadingAndItsCopying)
{
    EXPECT_DOUBLE_EQ(kHelper.nanoseconds(0, 0), 10000);
    EXPECT_DOUBLE_EQ(kHelper.nanoseconds(1000000, 0), 1010000);
    EXPECT_DOUBLE_EQ(kHelper.nanoseconds(1000000, 1000000), 11010000);
}

TEST(Crossover, AgainstATimeThatTheCallerMeasured)
{
    EXPECT_TRUE(helper_is_faster(kHelper, 1010001, 1000000, 0));
    EXPECT_FALSE(helper_is_faster(kHelper, 1010000, 1000000, 0));
    EXPECT_FALSE(helper_is_faster(kHelper, 1010001, 1000000, 1000000));
    EXPECT_FALSE(helper_is_faster(HelperSpeed{0, 1, 1}, UINT64_MAX, 1, 1));
    EXPECT_FALSE(helper_is_faster(HelperSpeed{1, 0, 1}, UINT64_MAX, 1, 1));
    EXPECT_FALSE(helper_is_faster(HelperSpeed{1, 1, 0}, UINT64_MAX, 1, 1));
}

TEST(Crossover, AgainstTheOwnSpeed)
{
    OwnSpeed own;
    for (int call = 0; call < 3; ++call) {
        EXPECT_FALSE(own.known());
        EXPECT_FALSE(helper_is_faster(kHelper, own, 1000000, 0));
        own.add(1000000, 2000);  // 500 MB/s: half of what the helper reads
    }
    ASSERT_TRUE(own.known());
    EXPECT_NEAR(own.nanoseconds(1000000), 2e6, 1);
    EXPECT_TRUE(helper_is_faster(kHelper, own, 1000000, 0));
    EXPECT_FALSE(helper_is_faster(kHelper, own, 1000000, 1000000));
    EXPECT_FALSE(helper_is_faster(kHelper, own, 1000, 0));  // the launch alone takes longer
}

TEST(Crossover, LargeCallsWeighMoreAndOldOnesFade)
{
    OwnSpeed own;
    own.add(1000, 1000);
    own.add(1000000, 1000);
    own.add(1000, 1000);
    EXPECT_LT(own.nanoseconds(1000000), 4e6);
    for (int call = 0; call < 200; ++call) own.add(1000000, 5000);
    EXPECT_NEAR(own.nanoseconds(1000000), 5e6, 1e4);
}

}  // namespace
}  // namespace vkv::offload
