// Clients that leave at any moment, lose their place, or say what makes no sense; and what is left of them.
#include <gtest/gtest.h>

#include <atomic>

#include "raw_client.h"

namespace vkv::gpu {
namespace {

using offload::Client;
using offload::FailureCode;
using offload::Message;
using offload::Refused;
using offload::Verb;

class Enough : public std::exception {};

// Stops at the nth call into it, wherever that is.
class Quitter : public Case {
public:
    int left;
    explicit Quitter(const Case &c, int calls) : Case(c), left(calls) {}
    void entries(size_t index, int32_t from, std::vector<offload::Entry> *out) override
    {
        step();
        Case::entries(index, from, out);
    }
    void copy(size_t index, const offload::Entry &tile, void *slab) override
    {
        step();
        Case::copy(index, tile, slab);
    }
    void step()
    {
        if (left-- == 0) throw Enough();
    }
};

// A client leaves at every step of a request that brings entries and tiles, twice over; then somebody else gets the right answer.
TEST(HelperClients, LeaveAtEveryStep)
{
    ServerOptions options;
    options.arena = 2 << 20;
    ServerThread server(cpu_device(1000, 2, 2000), options);
    const Extent extent({kv::Codec::f16, 2, 64, 64, 1, 0}, 0, 200, 1);
    Client stays;
    stays.connect(server.socket().c_str(), wait_for_test);
    int completed = 0;
    for (int step = 0; completed < 2; step++) {
        const auto number = static_cast<uint64_t>(step);
        for (const bool shared : {true, false}) {
            Client leaves;
            Quitter quitter(Case::over(extent, number, shared, 200), step);
            try {
                leaves.connect(server.socket().c_str(), [&](int fd) {
                    quitter.step();
                    wait_for_test(fd);
                });
                EXPECT_LT(quitter.error(&leaves), kClose);
                completed++;
            } catch (const Enough &) {
                leaves.close();
            }
        }
        Case next = Case::over(extent, number, true);
        EXPECT_LT(next.error(&stays), kClose);
        if (step > 30) step += 36;
    }
    EXPECT_TRUE(at_rest(server.header(), 1));
    EXPECT_GT(server.counters().dropped, 10u);
}

TEST(HelperClients, OneDiesWhileAnotherWaitsForItsTiles)
{
    ServerThread server(cpu_device(1000));
    const Extent extent({kv::Codec::f16, 2, 64, 64, 1, 0}, 0, 200, 1);
    for (const bool shared : {true, false}) {
        RawClient dies(server.socket());
        dies.hello();
        dies.send(Verb::submit, [&] {
            const uint64_t bytes = dies.write_request(extent);
            dies.span().flags = shared ? uint32_t{offload::kShared} : 0;
            return bytes;
        }());
        const Message need = dies.receive().value();
        EXPECT_EQ(need.verb, Verb::need);
        EXPECT_EQ(need.a, 64u);
        EXPECT_EQ(need.b, 400u - 64u);
        dies.fill(extent, need.a);
        dies.send(Verb::staged, need.a);
        EXPECT_EQ(dies.receive().value().verb, Verb::need);
        Case c;
        c.add_item(200);
        c.add_span(extent, 0, 0, 200, shared);
        c.spans()[0].space = 0;
        c.spans()[0].layer = 0;
        std::atomic<bool> connected{false}, submitted{false};
        std::thread waits([&] {
            Client client;
            client.connect(server.socket().c_str(), [&](int fd) {
                submitted = connected.load();
                wait_for_test(fd);
            });
            connected = true;
            EXPECT_LT(c.error(&client), kClose);
        });
        for (int i = 0; i < 60000 && !submitted; i++) ::usleep(1000);
        EXPECT_TRUE(submitted);
        server.counters();  // are asked for of the same thread: it has read what was submitted
        EXPECT_EQ(counter(c.copied), 0u);
        dies.close();
        waits.join();
        EXPECT_EQ(c.copied, 400u - 64u);
    }
    EXPECT_TRUE(at_rest(server.header(), 0));
}

// Submits a request whose deadline passes while the helper waits for what it needs: that is told first, if the helper is quick
// enough.
Message need_before_deadline(RawClient *client, uint64_t bytes)
{
    for (uint64_t us = 50000;; us *= 2) {
        client->request().header.deadline_us = now_us() + us;
        client->send(Verb::submit, bytes);
        const Message first = client->receive().value();
        if (first.verb == Verb::need || us > 30000000) return first;
        EXPECT_EQ(first.a, static_cast<uint64_t>(FailureCode::expired));
    }
}

// Who does not answer a need in time loses its place, not its slabs: it may be writing to them.
TEST(HelperClients, TheDeadlinePassesWhileTilesAreBrought)
{
    ServerThread server(cpu_device(1000));
    const Extent extent({kv::Codec::f16, 2, 64, 64, 1, 0}, 0, 100, 1);
    RawClient slow(server.socket());
    slow.hello();
    const uint64_t bytes = slow.write_request(extent);
    const Message need = need_before_deadline(&slow, bytes);
    ASSERT_EQ(need.verb, Verb::need);
    const Message failed = slow.receive().value();
    EXPECT_EQ(failed.verb, Verb::failed);
    EXPECT_EQ(failed.a, static_cast<uint64_t>(FailureCode::expired));
    EXPECT_EQ(server.counters().slabs_used, 32 + need.a);
    slow.fill(extent, need.a);
    slow.send(Verb::staged, need.a);
    EXPECT_TRUE(at_rest(server.header(), 1));
    EXPECT_EQ(server.counters().slots_used, 0u);
    // The connection goes on.
    slow.request().header.deadline_us = 0;
    slow.send(Verb::submit, bytes);
    for (;;) {
        const Message message = slow.receive().value();
        if (message.verb == Verb::done) break;
        ASSERT_EQ(message.verb, Verb::need);
        slow.fill(extent, message.a);
        slow.send(Verb::staged, message.a);
    }
}

TEST(HelperClients, TheDeadlinePassesWhileEntriesAreBrought)
{
    ServerThread server(cpu_device(1000));
    const Extent extent({kv::Codec::f16, 2, 64, 64, 1, 0}, 0, 20, 1);
    for (const Verb answer : {Verb::submit, Verb::area}) {
        RawClient slow(server.socket());
        slow.hello();
        const uint64_t bytes = slow.write_request(extent);
        slow.span().flags = offload::kShared;
        slow.span().entries_from = extent.end();
        slow.span().entries = 0;
        const Message need = need_before_deadline(&slow, bytes);
        ASSERT_EQ(need.verb, Verb::need);
        EXPECT_EQ(slow.needs()[0].wanted, offload::Wanted::entries);
        EXPECT_EQ(slow.needs()[0].first, 0);
        EXPECT_EQ(slow.receive().value().a, static_cast<uint64_t>(FailureCode::expired));
        slow.send(answer, bytes);  // crossed with the failure: belongs to what is over
        slow.send(Verb::ping, 5);
        const Message pong = slow.receive().value();
        EXPECT_EQ(pong.verb, Verb::pong);
        EXPECT_EQ(pong.a, 5u);
        slow.write_request(extent);
        slow.send(Verb::submit, bytes);
        EXPECT_EQ(slow.receive().value().verb, Verb::need);
    }
    EXPECT_TRUE(at_rest(server.header(), 0));
}

TEST(HelperClients, BadTiles)
{
    ServerThread server(cpu_device(1000));
    Extent damaged({kv::Codec::f16, 2, 64, 64, 10, 0}, 0, 100, 1);
    damaged.damage(7);
    Client client;
    client.connect(server.socket().c_str(), wait_for_test);
    const auto bad = [&](Case c) {
        try {
            c.error(&client);
            ADD_FAILURE() << "was answered";
        } catch (const Refused &refused) {
            EXPECT_EQ(refused.code(), FailureCode::bad_tile) << refused.what();
            EXPECT_NE(std::string(refused.what()).find("tile of head"), std::string::npos) << refused.what();
        }
        EXPECT_TRUE(at_rest(server.header(), 1));
        EXPECT_EQ(server.counters().slots_used, 0u);
    };
    bad(Case::over(damaged, 1, true));
    bad(Case::over(damaged, 1, false));
    Extent exchanged({kv::Codec::f16, 2, 64, 64, 10, 0}, 0, 100, 2);
    (*exchanged.header_id(3))++;
    bad(Case::over(exchanged, 2, true));
    const Extent good({kv::Codec::f16, 2, 64, 64, 10, 0}, 0, 100, 3);
    Case c = Case::over(good, 1, true);
    EXPECT_LT(c.error(&client), kClose);
}

TEST(HelperClients, KeysBeforeRope)
{
    ServerThread server(cpu_device(1000));
    const Extent extent({kv::Codec::f16, 2, 64, 64, 10, kv::kKeysBeforeRope}, 0, 10, 1);
    Client client;
    client.connect(server.socket().c_str(), wait_for_test);
    Case c = Case::over(extent, 1, true);
    try {
        c.ask(&client, c.queries(1));
        ADD_FAILURE() << "was answered";
    } catch (const Refused &refused) {
        EXPECT_EQ(refused.code(), FailureCode::not_supported);
    }
}

TEST(HelperClients, AnotherVersion)
{
    ServerThread server(cpu_device(64));
    RawClient old(server.socket());
    old.send(Verb::hello, offload::kVersion + 1, 1);
    EXPECT_EQ(old.receive().value().verb, Verb::failed);
    EXPECT_FALSE(old.receive());
    EXPECT_TRUE(at_rest(server.header(), 0));
}

// Messages that do not belong where they come end the connection, and nothing else.
TEST(HelperClients, MessagesOutOfOrder)
{
    ServerThread server(cpu_device(64));
    const Extent extent({}, 0, 10, 1);
    const auto ends = [&](const std::function<void(RawClient *)> &say, bool hello = true) {
        RawClient client(server.socket());
        if (hello) client.hello();
        say(&client);
        while (client.receive()) {
        }
        EXPECT_TRUE(at_rest(server.header(), 0));
    };
    ends([](RawClient *c) { c->send(Verb::submit, 1000); }, false);
    ends([](RawClient *c) { c->send(Verb::area, 1000); }, false);
    ends([](RawClient *c) { c->send(Verb::staged, 1); }, false);
    ends([](RawClient *c) { c->send(Verb::staged, 1); });
    ends([](RawClient *c) { c->send(Verb::hello, offload::kVersion); });
    ends([](RawClient *c) { c->send(Verb::stall, 1000); });
    ends([](RawClient *c) { c->send(static_cast<Verb>(77), 0); });
    ends([](RawClient *c) { c->send_bytes("short", 5); });
    ends([](RawClient *c) { c->send_bytes(std::string(100, 'x').data(), 100); });
    for (const Verb verb : {Verb::submit, Verb::area})
        ends([&](RawClient *c) {
            const uint64_t bytes = c->write_request(extent);
            c->send(Verb::submit, bytes);
            EXPECT_EQ(c->receive().value().verb, Verb::need);
            c->send(verb, bytes);
        });
}

// Every field of a request set to what it must not be: refused, and the connection goes on.
TEST(HelperClients, MalformedRequests)
{
    ServerThread server(cpu_device(64));
    const Extent extent({kv::Codec::f16, 2, 64, 64, 5, 0}, 0, 10, 1);
    RawClient client(server.socket());
    client.hello();
    const auto refused = [&](const char *what, const std::function<void()> &spoil, uint64_t bytes_wrong = 0) {
        const uint64_t bytes = client.write_request(extent);
        spoil();
        client.send(Verb::submit, bytes + bytes_wrong);
        const auto answer = client.receive();
        ASSERT_TRUE(answer) << what;
        EXPECT_EQ(answer->verb, Verb::failed) << what;
        const std::string text = reinterpret_cast<const offload::RequestHeader *>(client.area())->failure;
        EXPECT_FALSE(text.empty()) << what;
    };
    auto &r = client.request();
    refused("version", [&] { r.header.version++; });
    refused("kind", [&] { r.header.kind = static_cast<offload::Kind>(9); });
    refused("fault", [&] { r.header.fault = offload::Fault::crash; });
    refused("bytes", [&] { r.header.bytes--; });
    refused("bytes larger than the area", [&] { r.header.bytes = offload::kFirstArea + 64; });
    refused(
        "size in the message", [] {}, offload::kFirstArea);
    refused("heads", [&] { r.kv_heads = 0; });
    refused("heads", [&] { r.kv_heads = 40000; });
    refused("rows", [&] { r.rows = 0; });
    refused("rows", [&] { r.rows = UINT32_MAX; });
    refused("q_len", [&] { r.q_len = 2; });
    refused("q_len", [&] { r.q_len = 0; });
    refused("dim_k", [&] { r.dim_k = 0; });
    refused("dim_k", [&] { r.dim_k = 1025; });
    refused("dim_v", [&] { r.dim_v = 1025; });
    refused("flags", [&] { r.tile_flags = 4; });
    refused("values in keys", [&] { r.tile_flags = kv::kValuesInKeys, r.dim_v = 65; });
    refused("scale", [&] { r.scale = std::numeric_limits<float>::infinity(); });
    refused("softcap", [&] { r.softcap = -1; });
    refused("softcap", [&] { r.softcap = std::nanf(""); });
    refused("window", [&] { r.window = -1; });
    refused("sinks", [&] { r.sinks = -1; });
    refused("items", [&] { r.items = 2000000; });
    refused("spans", [&] { r.spans = 2000000; });
    refused("entries", [&] { r.entries = 2000000; });
    refused("items_at", [&] { r.items_at++; });
    refused("spans_at", [&] { r.spans_at = ~uint64_t{63}; });
    refused("entries_at", [&] { r.entries_at = r.header.bytes; });
    refused("queries_at", [&] { r.queries_at = r.header.bytes - 64; });
    refused("states_at", [&] { r.states_at = 0; });
    refused("needs_at", [&] { r.header.needs_at = ~uint64_t{0}; });
    refused("needs_room", [&] { r.header.needs_room = 0; });
    refused("needs_room", [&] { r.header.needs_room = UINT32_MAX; });
    refused("total", [&] { client.item().total = -1; });
    refused("first span", [&] { client.item().first_span = 2; });
    refused("spans of item", [&] { client.item().spans = UINT32_MAX; });
    refused("a span behind the last", [&] { client.item().first_span = 1; });
    refused("flags of span", [&] { client.span().flags = 8; });
    refused("from", [&] { client.span().from = -5; });
    refused("to", [&] { client.span().to = client.span().from; });
    refused("entries from", [&] { client.span().entries_from = 3; });
    refused("first entry", [&] { client.span().first_entry = UINT32_MAX; });
    refused("entries of span", [&] { client.span().entries = UINT32_MAX; });
    refused("too few entries", [&] { client.span().entries -= 1; });
    refused("head", [&] { client.entries()[1].head = 2; });
    refused("order", [&] { std::swap(client.entries()[0], client.entries()[1]); });
    refused("gap", [&] { client.entries()[2].first = 6; });
    refused("tokens", [&] { client.entries()[0].tokens = 0; });
    refused("far away", [&] { client.entries()[3].first = INT32_MAX - 2; });
    refused("begin", [&] { client.entries()[0].first = 1; });
    refused("begin of all heads", [&] {
        for (uint32_t i : {0u, 1u}) client.entries()[i].first = 1, client.entries()[i].tokens = 4;
    });
    refused("end of all heads", [&] {
        for (uint32_t i : {2u, 3u}) client.entries()[i].tokens = 4;
    });
    refused("queries", [&] { reinterpret_cast<float *>(client.area() + r.queries_at)[100] = std::nanf(""); });
    const uint64_t bytes = client.write_request(extent);
    client.send(Verb::submit, bytes);
    const Message need = client.receive().value();
    client.fill(extent, need.a);
    client.send(Verb::staged, need.a);
    EXPECT_EQ(client.receive().value().verb, Verb::done);
}

TEST(HelperClients, PingsAreAnsweredWhileALaunchRuns)
{
    std::atomic<bool> held = true;
    ServerThread server(std::make_unique<HeldDevice>(64, &held));
    const Extent extent({kv::Codec::f16, 2, 64, 64, 5, 0}, 0, 10, 1);
    RawClient client(server.socket());
    client.hello();
    client.send(Verb::submit, client.write_request(extent));
    client.fill(extent, client.receive().value().a);
    client.send(Verb::staged, 4);
    EXPECT_TRUE(wait_for_launch(server.socket(), 20000));
    client.send(Verb::ping, 77);
    const Message pong = client.receive().value();
    EXPECT_EQ(pong.verb, Verb::pong);
    EXPECT_EQ(pong.a, 77u);
    EXPECT_GT(pong.b, 20000u);
    held = false;
    EXPECT_EQ(client.receive().value().verb, Verb::done);
    // Whoever does not wait for answers is sent away when it overdoes it.
    held = true;
    client.send(Verb::submit, client.request().header.bytes);
    for (int i = 0; i < 10; i++) client.send(Verb::submit, client.request().header.bytes);
    for (int i = 0; counter(server.header().clients) != 0 && i < 60000; i++) ::usleep(1000);
    held = false;
    while (client.receive()) {
    }
    EXPECT_TRUE(at_rest(server.header(), 0));
}

}  // namespace
}  // namespace vkv::gpu
