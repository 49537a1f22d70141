// Graphs where no thread can be started, as at a limit of processes: the caller's own thread does the work.
#include <gtest/gtest.h>

#include <pthread.h>

#include <stdexcept>

#include "core/graph/workers.h"
#include "graph_rows.h"

namespace vkv::graph {
namespace {

// New threads ask for a stack that no machine has.
class NoThreads : public testing::Test {
protected:
    void SetUp() override
    {
        ASSERT_EQ(pthread_getattr_default_np(&before_), 0);
        pthread_attr_t endless;
        pthread_attr_init(&endless);
        ASSERT_EQ(pthread_attr_setstacksize(&endless, size_t{1} << 50), 0);
        ASSERT_EQ(pthread_setattr_default_np(&endless), 0);
        pthread_attr_destroy(&endless);
        rows_ = real_rows("minilm_sample.f16", Scalar::f32, kRows);
        built_ = make_graph(CodecId::none, Metric::l2, rows_, {});
    }
    void TearDown() override
    {
        pthread_setattr_default_np(&before_);
        pthread_attr_destroy(&before_);
    }
    size_t linked() const
    {
        size_t n = 0;
        std::vector<uint32_t> list(built_.graph->max_links(0));
        for (uint32_t id = 0; id < built_.graph->size(); ++id) n += built_.graph->links(id, 0, list.data()) > 0;
        return n;
    }
    pthread_attr_t before_;
    Rows rows_;
    Built built_;
};

TEST_F(NoThreads, NoneIsNoError)
{
    Workers workers(4, [](unsigned) { FAIL() << "a thread was started"; });
    EXPECT_TRUE(workers.none());
    EXPECT_TRUE(workers.done());
    workers.join();
}

TEST_F(NoThreads, TheCallerLinksAndAsksAfterEachNode)
{
    uint64_t polls = 0, last = 0;
    EXPECT_TRUE(built_.graph->link_all(4, [&](uint64_t done) {
        ++polls;
        EXPECT_GE(done, last);
        last = done;
        return false;
    }));
    EXPECT_EQ(last, rows_.size());
    EXPECT_EQ(polls, rows_.size());  // the first node needs no links; one more at the end
    EXPECT_EQ(linked(), rows_.size());
    EXPECT_EQ(bad_lists(*built_.graph), 0u);
}

TEST_F(NoThreads, TheCallerStops)
{
    EXPECT_FALSE(built_.graph->link_all(4, [](uint64_t done) { return done >= 10; }));
    EXPECT_EQ(linked(), 10u);
}

TEST_F(NoThreads, AnErrorOfThePollGoesOn)
{
    EXPECT_THROW(built_.graph->link_all(4, [](uint64_t) -> bool { throw std::runtime_error("cancelled"); }), std::runtime_error);
    EXPECT_LT(linked(), rows_.size());
}

}  // namespace
}  // namespace vkv::graph
