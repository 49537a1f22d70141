// The server in a thread of the test, with the CPU device: what it answers, what it remembers, and what it forgets.
#include "gpu/server.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>

#include "core/simd/kernels.h"
#include "raw_client.h"

namespace vkv::gpu {
namespace {

using offload::Client;
using offload::FailureCode;
using offload::Refused;

FailureCode refusal(Case *c, Client *client)
{
    try {
        c->error(client);
    } catch (const Refused &refused) {
        EXPECT_STRNE(refused.what(), "");
        return refused.code();
    }
    return FailureCode::none;
}

TEST(HelperServer, EveryCodecAndShape)
{
    ServerThread server(cpu_device(4096));
    Client client;
    client.connect(server.socket().c_str(), wait_for_test);
    uint64_t number = 0;
    for (int codec = 0; codec < kv::kCodecs; codec++)
        for (const auto &[dim_k, dim_v] : {std::pair{64, 64}, {96, 96}, {128, 128}, {192, 128}, {256, 256}}) {
            const Shape shape{static_cast<kv::Codec>(codec), 3, dim_k, dim_v, 0, 0};
            const Extent extent(shape, 5, 300, static_cast<uint32_t>(number));
            for (const bool shared : {false, true}) {
                Case c = Case::over(extent, number, shared);
                c.rows = 8;
                c.q_len = 4;
                EXPECT_LT(c.error(&client), kClose) << "codec " << codec << " dims " << dim_k << "/" << dim_v;
            }
            number++;
        }
    const Extent latent({kv::Codec::int8, 1, 576, 512, 0, kv::kValuesInKeys}, 0, 200, 3);
    Case c = Case::over(latent, number, true);
    c.rows = 16;
    EXPECT_LT(c.error(&client), kClose);
}

TEST(HelperServer, MasksAndSoftCap)
{
    ServerThread server(cpu_device(4096));
    Client client;
    client.connect(server.socket().c_str(), wait_for_test);
    const Extent extent({kv::Codec::int8, 2, 64, 64, 20, 0}, 0, 400, 1);
    for (const int window : {0, 1, 33, 390, 1000})
        for (const int sinks : {0, 4, 50})
            for (const bool causal : {true, false})
                for (const float cap : {0.0f, 5.0f}) {
                    Case c;
                    c.rows = 6;
                    c.q_len = 3;
                    c.window = window;
                    c.sinks = sinks;
                    c.causal = causal;
                    c.softcap = cap;
                    c.add_item(390);  // tokens behind it are there and must not count
                    c.add_span(extent, 1, 7, 395, true);
                    c.add_item(100);
                    c.add_span(extent, 1, 0, 100, true);
                    EXPECT_LT(c.error(&client), kClose) << window << " " << sinks << " " << causal << " " << cap;
                }
}

TEST(HelperServer, ManyItemsAndSpans)
{
    ServerThread server(cpu_device(4096));
    Client client;
    client.connect(server.socket().c_str(), wait_for_test);
    const Extent prefix({kv::Codec::f16, 2, 64, 64, 0, 0}, 0, 333, 1), a({kv::Codec::rotated4, 2, 64, 64, 0, 0}, 333, 200, 2),
        b({kv::Codec::f16, 2, 64, 64, 7, 0}, 333, 50, 3);
    for (int round = 0; round < 2; round++) {
        Case c;
        c.add_item(533);
        c.add_span(prefix, 1, 0, 333, true);
        c.add_span(a, 2, 333, 533, true);
        c.add_item(383);
        c.add_span(prefix, 1, 0, 333, true);
        c.add_span(b, 3, 333, 383, false);
        c.add_item(10);  // nothing but what the helper does not see
        EXPECT_LT(c.error(&client), kClose);
        if (round == 0) {
            EXPECT_EQ(c.copied, prefix.tiles() + a.tiles() + b.tiles());
        } else {
            EXPECT_EQ(c.copied, 0u);
        }
    }
    EXPECT_EQ(client.figures().tiles, 2 * prefix.tiles() + a.tiles() + b.tiles());
}

// A decode step costs what is new.
TEST(HelperServer, AStepBringsNewTilesOnly)
{
    ServerThread server(cpu_device(4096));
    Client client;
    client.connect(server.socket().c_str(), wait_for_test);
    Extent extent({kv::Codec::f16, 2, 64, 64, 10, 0}, 0, 1000, 1);
    Case first = Case::over(extent, 1, true);
    EXPECT_LT(first.error(&client), kClose);
    int32_t covered = extent.end();
    for (int step = 0; step < 20; step++) {
        extent.extend(10);
        Case next = Case::over(extent, 1, true, covered);
        EXPECT_LT(next.error(&client), kClose);
        EXPECT_EQ(next.copied, 2u);
        EXPECT_EQ(next.listed, 2u);
        EXPECT_EQ(next.meanwhile, 1u);
        covered = extent.end();
    }
    Case shorter;  // a snapshot from before
    shorter.add_item(995);
    shorter.add_span(extent, 1, 0, 995, true, covered);
    EXPECT_LT(shorter.error(&client), kClose);
    EXPECT_EQ(shorter.listed, 0u);
    Client other;  // who has been told nothing
    other.connect(server.socket().c_str(), wait_for_test);
    Case whole = Case::over(extent, 1, true);
    EXPECT_LT(whole.error(&other), kClose);
    EXPECT_EQ(whole.copied, 0u);
    EXPECT_EQ(server.counters().tables, 1u);
}

TEST(HelperServer, BelievedTooMuch)
{
    ServerThread server(cpu_device(4096));
    Client client;
    client.connect(server.socket().c_str(), wait_for_test);
    const Extent extent({}, 0, 1000, 1);
    Case unknown = Case::over(extent, 1, true, 1000);
    EXPECT_LT(unknown.error(&client), kClose);
    EXPECT_EQ(unknown.copied, extent.tiles());
    const Extent longer({}, 0, 2000, 2);
    Case half;
    half.add_item(500);
    half.add_span(longer, 2, 0, 500, true);
    EXPECT_LT(half.error(&client), kClose);
    Case whole = Case::over(longer, 2, true, 1500);
    EXPECT_LT(whole.error(&client), kClose);
    EXPECT_EQ(whole.copied + half.copied, longer.tiles());
}

// Pieces of an extent in every order: the table grows, is replaced, or is gone around.
TEST(HelperServer, PiecesOfAnExtent)
{
    ServerThread server(cpu_device(4096));
    Client client;
    client.connect(server.socket().c_str(), wait_for_test);
    const Extent extent({kv::Codec::f16, 2, 64, 64, 10, 0}, 0, 500, 1);
    std::mt19937 random(1);
    for (int round = 0; round < 300; round++) {
        Case c;
        c.add_item(500);
        const uint64_t number = 1 + random() % 20;
        for (uint32_t spans = 1 + random() % 3; spans; spans--) {
            const auto from = static_cast<int32_t>(random() % 499);
            const auto to = from + 1 + static_cast<int32_t>(random() % static_cast<uint32_t>(500 - from));
            c.add_span(extent, number, from, to, true, static_cast<int32_t>(random() % 500));
        }
        ASSERT_LT(c.error(&client), kClose) << round;
    }
}

TEST(HelperServer, AnotherExtentUnderTheSameName)
{
    ServerThread server(cpu_device(4096));
    Client client;
    client.connect(server.socket().c_str(), wait_for_test);
    const Extent one({}, 0, 300, 1), two({}, 0, 300, 2), wide({kv::Codec::f16, 2, 128, 128, 0, 0}, 0, 300, 3);
    for (const Extent *extent : {&one, &two, &wide, &one}) {
        Case c = Case::over(*extent, 1, true);
        EXPECT_LT(c.error(&client), kClose);
        EXPECT_EQ(c.copied, extent->tiles());
    }
    EXPECT_EQ(server.counters().slots_used, one.tiles());
}

TEST(HelperServer, ALargeRequestGetsAnAreaAndGivesItBack)
{
    ServerThread server(cpu_device(4096));
    Client client;
    client.connect(server.socket().c_str(), wait_for_test);
    const Extent extent({kv::Codec::f16, 2, 64, 64, 1, 0}, 0, 2000, 1);
    for (const bool shared : {true, false}) {
        Case c = Case::over(extent, 1, shared, 2000);  // the entries do not fit beside the queries
        c.rows = 300;
        EXPECT_LT(c.error(&client), kClose);
        EXPECT_LT(c.error(&client), kClose);
    }
    EXPECT_TRUE(at_rest(server.header(), 1));
}

TEST(HelperServer, ArenaIsFull)
{
    ServerOptions options;
    options.arena = 4 << 20;
    ServerThread server(cpu_device(4096), options);
    const Extent extent({}, 0, 100, 1);
    {
        std::vector<std::unique_ptr<Client>> clients;
        EXPECT_THROW(
            for (int i = 0; i < 100; i++) {
                clients.push_back(std::make_unique<Client>());
                clients.back()->connect(server.socket().c_str(), wait_for_test);
            },
            offload::Lost);
        EXPECT_EQ(clients.size(), 12u);  // eleven areas fill three quarters of the arena; the last one was refused
        Case large = Case::over(extent, 1, false);
        large.rows = 1000;
        EXPECT_EQ(refusal(&large, clients.front().get()), FailureCode::no_room);
        Case fits = Case::over(extent, 1, false);
        EXPECT_LT(fits.error(clients.front().get()), kClose);
        large.rows = 10000;
        EXPECT_EQ(refusal(&large, clients.front().get()), FailureCode::too_large);
    }
    EXPECT_TRUE(at_rest(server.header(), 0));
}

TEST(HelperServer, MoreTilesThanSlabs)
{
    ServerOptions options;
    options.arena = 2 << 20;  // 127 slabs for staging
    ServerThread server(cpu_device(4096), options);
    Client client;
    client.connect(server.socket().c_str(), wait_for_test);
    const Extent extent({kv::Codec::f16, 2, 64, 64, 1, 0}, 0, 600, 1);
    Case c = Case::over(extent, 1, true);
    EXPECT_LT(c.error(&client), kClose);
    EXPECT_EQ(c.copied, 1200u);
    EXPECT_EQ(c.meanwhile, 1u);
    EXPECT_EQ(server.counters().slots_used, 1200u);
}

TEST(HelperServer, MoreTilesThanTheCacheHolds)
{
    ServerThread server(cpu_device(100));
    Client client;
    client.connect(server.socket().c_str(), wait_for_test);
    const Extent too_large({kv::Codec::f16, 2, 64, 64, 1, 0}, 0, 51, 1), fits({kv::Codec::f16, 2, 64, 64, 1, 0}, 0, 50, 1),
        half({kv::Codec::f16, 2, 64, 64, 1, 0}, 0, 30, 1);
    for (int round = 0; round < 5; round++)
        for (const bool shared : {true, false}) {
            Case no = Case::over(too_large, 1, shared);
            EXPECT_EQ(refusal(&no, &client), FailureCode::too_large);
            Case c = Case::over(fits, 2, shared);
            EXPECT_LT(c.error(&client), kClose);
            Case d = Case::over(half, 3, shared);
            EXPECT_LT(d.error(&client), kClose);
        }
    // A window over a table that fills the cache: its own tiles are in the way.
    const Extent sequence({kv::Codec::f16, 2, 64, 64, 1, 0}, 0, 200, 4);
    for (const int32_t from : {0, 150, 60, 100, 10}) {
        Case c;
        c.add_item(200);
        c.add_span(sequence, 4, from, from + 45, true);
        EXPECT_LT(c.error(&client), kClose);
    }
    EXPECT_GT(server.counters().evictions, 100u);
    EXPECT_LE(server.counters().slots_used, 100u);
}

TEST(HelperServer, RandomRequestsThroughASmallCache)
{
    ServerThread server(cpu_device(170));
    std::vector<Extent> extents;
    for (uint32_t i = 0; i < 12; i++)
        extents.emplace_back(Shape{kv::Codec::int8, 2, 64, 64, 5, 0}, 0, 100 + 10 * static_cast<int>(i), i);
    std::vector<std::thread> threads;
    std::atomic<int> wrong{0};
    for (uint32_t t = 0; t < 4; t++)
        threads.emplace_back([&, t] {
            Client client;
            client.connect(server.socket().c_str(), wait_for_test);
            std::mt19937 random(t);
            for (int i = 0; i < 150; i++) {
                Case c;
                for (uint32_t items = 1 + random() % 2; items; items--) {
                    const uint32_t e = random() % 12;
                    c.add_item(extents[e].end());
                    c.add_span(extents[e], e, 0, extents[e].end(), random() % 4 != 0, random() % 2 ? extents[e].end() : 0);
                }
                if (!(c.error(&client, random()) < kClose)) wrong++;
            }
        });
    for (std::thread &thread : threads) thread.join();
    EXPECT_EQ(wrong, 0);
    EXPECT_GT(server.counters().evictions, 100u);
    EXPECT_TRUE(at_rest(server.header(), 0));
}

TEST(HelperServer, TilesAreCopiedOnce)
{
    ServerThread server(cpu_device(4096));
    const Extent extent({}, 0, 300, 1);
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; t++)
        threads.emplace_back([&] {
            Client client;
            client.connect(server.socket().c_str(), wait_for_test);
            for (int i = 0; i < 5; i++) {
                Case c = Case::over(extent, 1, true);
                EXPECT_LT(c.error(&client), kClose);
            }
        });
    for (std::thread &thread : threads) thread.join();
    EXPECT_EQ(server.counters().requests, 40u);
    EXPECT_EQ(server.counters().misses + server.counters().hits, 40 * extent.tiles());
    // Whoever was first.
    uint64_t bytes = 0;
    for (size_t i = 0; i < extent.tiles(); i++) bytes += kv::tile_bytes(kv::shape_of(extent.view(i)), extent.view(i).tokens);
    EXPECT_EQ(server.counters().staged_bytes, bytes);
}

TEST(HelperServer, WhatIsReadyRunsTogether)
{
    std::atomic<bool> held = false;
    ServerThread server(std::make_unique<HeldDevice>(4096, &held));
    const Extent extent({}, 0, 300, 1);
    Client warm;
    warm.connect(server.socket().c_str(), wait_for_test);
    Case first = Case::over(extent, 1, true);
    EXPECT_LT(first.error(&warm), kClose);
    EXPECT_EQ(server.counters().batches, 1u);
    held = true;
    std::atomic<int> waiting{0}, alone{0}, together{0};
    std::vector<std::thread> threads;
    const auto ask = [&] {
        threads.emplace_back([&] {
            bool asks = false;
            Client client;
            client.connect(server.socket().c_str(), [&](int fd) {
                if (asks) waiting++;
                wait_for_test(fd);
            });
            asks = true;
            Case c = Case::over(extent, 1, true);
            EXPECT_LT(c.error(&client), kClose);
            if (client.figures().batch == 1) alone++;
            if (client.figures().batch == 7) together++;
        });
    };
    ask();
    EXPECT_TRUE(wait_for_launch(server.socket()));
    for (int t = 0; t < 7; t++) ask();
    // All have sent their requests, and what was sent before a ping is read before it.
    for (int i = 0; waiting < 8 && i < 60000; i++) ::usleep(1000);
    EXPECT_TRUE(wait_for_launch(server.socket()));
    held = false;
    for (std::thread &thread : threads) thread.join();
    EXPECT_EQ(alone, 1);
    EXPECT_EQ(together, 7);
    EXPECT_EQ(server.counters().batches, 3u);
}

TEST(HelperServer, LaunchesHaveALimit)
{
    ServerOptions options;
    options.scheduler.max_launch_tiles = 50;
    ServerThread server(cpu_device(4096, 2, 10000), options);
    const Extent extent({kv::Codec::f16, 2, 64, 64, 1, 0}, 0, 20, 1);  // 40 tiles
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++)
        threads.emplace_back([&] {
            Client client;
            client.connect(server.socket().c_str(), wait_for_test);
            Case c = Case::over(extent, 1, true);
            EXPECT_LT(c.error(&client), kClose);
            EXPECT_EQ(client.figures().batch, 1u);
        });
    for (std::thread &thread : threads) thread.join();
    const Extent large({kv::Codec::f16, 2, 64, 64, 1, 0}, 0, 100, 1);  // alone it may be larger
    Client client;
    client.connect(server.socket().c_str(), wait_for_test);
    Case c = Case::over(large, 2, true);
    EXPECT_LT(c.error(&client), kClose);
}

TEST(HelperServer, ALaunchMayWaitForMore)
{
    const Extent extent({kv::Codec::f16, 2, 64, 64, 1, 0}, 0, 10, 1);  // 20 tiles
    const auto ask = [&](int clients, uint32_t batch, uint64_t wait_us) {
        ServerOptions options;
        options.scheduler.batch_wait_us = wait_us;
        options.scheduler.max_launch_tiles = 80;
        ServerThread server(cpu_device(4096), options);
        const uint64_t begun = now_us();
        std::vector<std::thread> threads;
        for (int t = 0; t < clients; t++)
            threads.emplace_back([&] {
                Client client;
                client.connect(server.socket().c_str(), wait_for_test);
                Case c = Case::over(extent, 1, true);
                EXPECT_LT(c.error(&client), kClose);
                EXPECT_EQ(client.figures().batch, batch);
            });
        for (std::thread &thread : threads) thread.join();
        return now_us() - begun;
    };
    EXPECT_GT(ask(1, 1, 300000), 300000u);
    EXPECT_LT(ask(4, 4, 50000000), 50000000u);  // for each other; as many tiles as a launch may have: there is nothing to wait for
}

// Clients beyond the limit of descriptors are turned away, and the others do not notice.
TEST(HelperServer, NoDescriptorsLeft)
{
    ServerThread server(cpu_device(64));
    const Extent extent({}, 0, 50, 1);
    Client stays;
    stays.connect(server.socket().c_str(), wait_for_test);
    std::vector<int> sockets;  // made before the limit, so that only the server feels it
    for (int i = 0; i < 20; i++) sockets.push_back(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    rlimit before{};
    ::getrlimit(RLIMIT_NOFILE, &before);
    const int next = ::dup(0);
    ::close(next);
    const rlimit tight{static_cast<rlim_t>(next + 5), before.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &tight);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, server.socket().c_str());
    for (const int fd : sockets) EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address), 0);
    Case c = Case::over(extent, 1, true);
    EXPECT_LT(c.error(&stays), kClose);
    const auto turned_away = [&] {
        return std::count_if(sockets.begin(), sockets.end(), [](int fd) {
            char byte;
            return ::recv(fd, &byte, 1, MSG_DONTWAIT) == 0;
        });
    };
    for (int i = 0; turned_away() < 15 && i < 6000; i++) ::usleep(10000);
    EXPECT_LT(c.error(&stays), kClose);
    EXPECT_EQ(turned_away(), 15);
    for (const int fd : sockets) ::close(fd);
    ::setrlimit(RLIMIT_NOFILE, &before);
    Client later;
    later.connect(server.socket().c_str(), wait_for_test);
    EXPECT_LT(c.error(&later), kClose);
}

TEST(HelperServer, DeadlinesOfWaitingRequests)
{
    std::atomic<bool> held = false;
    ServerThread server(std::make_unique<HeldDevice>(4096, &held));
    const Extent extent({}, 0, 50, 1);
    Client a, b;
    a.connect(server.socket().c_str(), wait_for_test);
    b.connect(server.socket().c_str(), wait_for_test);
    Case warm = Case::over(extent, 1, true);
    EXPECT_LT(warm.error(&a), kClose);
    EXPECT_EQ(server.counters().batches, 1u);
    held = true;
    std::atomic<bool> ended = false;
    std::thread runs([&] {
        Case c = Case::over(extent, 1, true);
        EXPECT_LT(c.error(&a), kClose);
        ended = true;
    });
    EXPECT_TRUE(wait_for_launch(server.socket()));
    Case late = Case::over(extent, 1, true);
    late.deadline_us = now_us() + 10000;
    EXPECT_EQ(refusal(&late, &b), FailureCode::expired);
    EXPECT_FALSE(ended);  // it was told at once, not when the launch had ended
    held = false;
    runs.join();
    EXPECT_EQ(server.counters().expired, 1u);
    Case again = Case::over(extent, 1, true);
    again.deadline_us = now_us() + 60000000;
    EXPECT_LT(again.error(&b), kClose);
}

TEST(HelperServer, Nearest)
{
    ServerThread server(cpu_device(64));
    Client client;
    client.connect(server.socket().c_str(), wait_for_test);
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (const auto metric : {offload::Metric::l2_squared, offload::Metric::negative_inner_product, offload::Metric::l1})
        for (const uint32_t rows : {0u, 3u, 1000u}) {
            std::vector<float> q(11 * 40), v(rows * 40);
            for (float &x : q) x = normal(random);
            for (float &x : v) x = normal(random);
            if (rows > 3) std::copy_n(&v[0], 40, &v[40]);  // a tie
            const offload::Neighbor *got = client.nearest({metric, 40, 11, rows, 5, 0, [&](float *a, float *b) {
                                                               std::copy(q.begin(), q.end(), a);
                                                               std::copy(v.begin(), v.end(), b);
                                                           }});
            for (uint32_t i = 0; i < 11; i++) {
                std::vector<std::pair<float, uint32_t>> all;
                for (uint32_t r = 0; r < rows; r++) {
                    const auto &k = simd::kernels();
                    const float *a = &q[i * 40], *b = &v[r * 40];
                    all.emplace_back(metric == offload::Metric::l2_squared ? k.l2_f32(a, b, 40)
                                     : metric == offload::Metric::l1       ? k.l1_f32(a, b, 40)
                                                                           : -k.ip_f32(a, b, 40),
                                     r);
                }
                std::sort(all.begin(), all.end());
                all.resize(5, {std::numeric_limits<float>::infinity(), UINT32_MAX});
                for (uint32_t j = 0; j < 5; j++) {
                    EXPECT_EQ(got[i * 5 + j].row, all[j].second);
                    EXPECT_EQ(got[i * 5 + j].distance, all[j].first);
                }
            }
        }
}

}  // namespace
}  // namespace vkv::gpu
