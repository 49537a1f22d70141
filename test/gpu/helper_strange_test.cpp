// The client in front of a helper that makes no sense, or is of another mind than ours: the client is a server process, so what a
// helper says must not lead it beyond the memory that they share.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/un.h>

#include <functional>

#include "raw_client.h"

namespace vkv::gpu {
namespace {

using offload::Client;
using offload::FailureCode;
using offload::Lost;
using offload::Message;
using offload::Need;
using offload::Refused;
using offload::Verb;
using offload::Wanted;

constexpr uint64_t kArena = 1u << 20, kArea = 256u << 10;  // the client's area begins at kArea

// Says what the script says to one client, in a thread of its own.
class StrangeHelper {
public:
    using Script = std::function<void(StrangeHelper *)>;

    explicit StrangeHelper(Script script) : script_(std::move(script))
    {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::strcpy(address.sun_path, folder_.socket().c_str());
        listener_ = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        memory_ = ::memfd_create("strange", MFD_CLOEXEC);
        if (::bind(listener_, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0 || ::listen(listener_, 1) != 0 ||
            ::ftruncate(memory_, kArena) != 0)
            throw std::runtime_error("a helper for the test");
        map_ = static_cast<uint8_t *>(::mmap(nullptr, kArena, PROT_READ | PROT_WRITE, MAP_SHARED, memory_, 0));
        thread_ = std::thread([this] {
            try {
                wait_for_test(listener_);
                fd_ = ::accept(listener_, nullptr, nullptr);
                if (receive().verb == Verb::hello) script_(this);
            } catch (const std::exception &error) {
                ADD_FAILURE() << "the client was silent: " << error.what();
            }
            ::close(fd_);
        });
    }
    ~StrangeHelper()
    {
        thread_.join();
        ::munmap(map_, kArena);
        ::close(memory_);
        ::close(listener_);
    }
    std::string socket() const { return folder_.socket(); }

    void send(Verb verb, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0) { send_message(fd_, {verb, 0, a, b, c}); }
    void welcome(uint64_t bytes = kArena, uint64_t at = kArea, uint64_t area = kArea)
    {
        Message message{Verb::welcome, 0, bytes, at, area};
        iovec part{&message, sizeof message};
        alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
        msghdr header{};
        header.msg_iov = &part;
        header.msg_iovlen = 1;
        header.msg_control = control;
        header.msg_controllen = sizeof control;
        cmsghdr *c = CMSG_FIRSTHDR(&header);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        std::memcpy(CMSG_DATA(c), &memory_, sizeof memory_);
        ::sendmsg(fd_, &header, MSG_NOSIGNAL);
    }
    // Of no verb: the client has closed the connection.
    Message receive()
    {
        Message message{};
        wait_for_test(fd_);
        if (::recv(fd_, &message, sizeof message, 0) != sizeof message) return {};
        return message;
    }
    offload::AttendRequest request(uint64_t at = kArea) const
    {
        offload::AttendRequest r;
        std::memcpy(&r, map_ + at, sizeof r);
        return r;
    }
    offload::Span span() const
    {
        offload::Span s;
        std::memcpy(&s, map_ + kArea + request().spans_at, sizeof s);
        return s;
    }
    void need(const Need &need, uint64_t count = 1, uint64_t later = 0)
    {
        for (uint64_t i = 0; i < std::min<uint64_t>(count, 8); i++)
            std::memcpy(map_ + kArea + request().header.needs_at + i * sizeof need, &need, sizeof need);
        send(Verb::need, count, later);
    }

private:
    Folder folder_;
    Script script_;
    int listener_ = -1, fd_ = -1, memory_ = -1;
    uint8_t *map_ = nullptr;
    std::thread thread_;
};

const Extent &some()
{
    static const Extent extent({kv::Codec::int8, 1, 64, 64, 10, 0}, 0, 40, 1);
    return extent;
}

// What the client makes of it.
std::string lost(Case c, const StrangeHelper::Script &script)
{
    StrangeHelper helper(script);
    Client client;
    try {
        client.connect(helper.socket().c_str(), wait_for_test);
        c.ask(&client, c.queries(1));
        return "it was answered";
    } catch (const Lost &was) {
        return was.what();
    }
}
std::string lost(const StrangeHelper::Script &script) { return lost(Case::over(some(), 1, false), script); }

TEST(StrangeHelper, Welcomes)
{
    const std::string unmapped = "the helper's memory cannot be mapped";
    const uint64_t welcomes[][3] = {
        {2 * kArena, kArea, kArea},            // more than the file
        {kArena, kArena - kArea + 64, kArea},  // an area that ends behind it
        {kArena, uint64_t{0} - kArea, kArea},  // or before it, if sums are not watched
        {kArena, kArea + 1, kArea},            // where nothing is aligned
        {kArena, kArea, sizeof(offload::AttendRequest) - 1},
    };
    for (const auto &w : welcomes) {
        EXPECT_EQ(lost([&](StrangeHelper *h) { h->welcome(w[0], w[1], w[2]); }), unmapped) << w[0] << ' ' << w[1] << ' ' << w[2];
    }
    const std::string nothing = "the helper closed the connection before it said anything";
    EXPECT_EQ(lost([](StrangeHelper *h) { h->send(Verb::welcome, kArena, kArea, kArea); }), nothing);  // without a file
    EXPECT_EQ(lost([](StrangeHelper *) {}), nothing);
}

TEST(StrangeHelper, Needs)
{
    const auto asks = [](const Need &need, uint64_t count = 1) {
        return lost([&](StrangeHelper *h) {
            h->welcome();
            h->receive();
            h->need(need, count);
            h->receive();
        });
    };
    const Need good{Wanted::tile, 0, some().entries()[0].id, 2 * kArea, 0, 0, 10};
    EXPECT_EQ(asks(good), "the helper has gone");
    const std::string nowhere = "the helper asks for a tile where there is no slab";
    for (const uint64_t at : {kArena, kArena - 64, 2 * kArea + 1, uint64_t{0} - offload::kSlabBytes}) {
        Need need = good;
        need.slab_at = at;
        EXPECT_EQ(asks(need), nowhere) << at;
    }
    Need need = good;
    need.span = 1;
    EXPECT_EQ(asks(need), nowhere);
    need.wanted = Wanted::entries;
    EXPECT_EQ(asks(need), "the helper asks for entries of no span");
    for (const uint64_t count : {uint64_t{0}, uint64_t{257}, UINT64_MAX})
        EXPECT_EQ(asks(good, count), "the helper asks for more than there is room for") << count;
}

// Entries are named from inside the span on, whatever a helper asks for.
TEST(StrangeHelper, NeedsOfEntries)
{
    struct {
        int32_t from, named;
    } const wanted[] = {{-7, 0}, {0, 0}, {25, 25}, {40, 40}, {41, 40}, {INT32_MAX, 40}};
    for (const auto &w : wanted) {
        offload::Span span{};
        EXPECT_EQ(lost(Case::over(some(), 1, true),
                       [&](StrangeHelper *h) {
                           h->welcome();
                           h->receive();
                           h->need({Wanted::entries, 0, 0, 0, w.from, 0, 0});
                           if (h->receive().verb == Verb::submit) span = h->span();
                       }),
                  "the helper has gone");
        EXPECT_EQ(span.entries_from, w.named) << w.from;
        EXPECT_EQ(span.entries, static_cast<uint32_t>((40 - w.named + 9) / 10)) << w.from;
    }
}

TEST(StrangeHelper, Areas)
{
    Case large = Case::over(some(), 1, false);
    large.rows = 600;
    const auto grants = [&](uint64_t at, uint64_t more) {
        return lost(large, [&](StrangeHelper *h) {
            h->welcome();
            const Message wanted = h->receive();
            EXPECT_EQ(wanted.verb, Verb::area);
            h->send(Verb::area_granted, at, wanted.a + more);
            h->receive();
        });
    };
    EXPECT_EQ(grants(2 * kArea, 0), "the helper has gone");
    const std::string nonsense = "the helper grants an area that makes no sense";
    EXPECT_EQ(grants(2 * kArea, uint64_t{0} - 1), nonsense);
    EXPECT_EQ(grants(2 * kArea + 1, 0), nonsense);
    EXPECT_EQ(grants(kArena - kArea, 0), nonsense);
    EXPECT_EQ(grants(uint64_t{0} - kArea, 0), nonsense);
    EXPECT_EQ(grants(2 * kArea, kArena), nonsense);
    EXPECT_EQ(lost([](StrangeHelper *h) {
                  h->welcome();
                  h->receive();
                  h->send(Verb::area_granted, 2 * kArea, kArea);
              }),
              "the helper answers with something else");
}

// A request that was refused leaves nothing behind: the larger area is given back, and the next lies in the client's own.
TEST(StrangeHelper, RefusesInALargeArea)
{
    std::vector<Message> heard;
    StrangeHelper helper([&](StrangeHelper *h) {
        h->welcome();
        const auto hear = [&] { return heard.emplace_back(h->receive()); };
        const Message wanted = hear();
        h->send(Verb::area_granted, 2 * kArea, wanted.a);
        hear();
        h->send(Verb::failed, static_cast<uint64_t>(FailureCode::too_large));
        hear();
        hear();
        h->send(Verb::failed, static_cast<uint64_t>(FailureCode::no_room));
    });
    Client client;
    client.connect(helper.socket().c_str(), wait_for_test);
    Case large = Case::over(some(), 1, false), small = large;
    large.rows = 600;
    for (Case *c : {&large, &small}) EXPECT_THROW(c->ask(&client, c->queries(1)), Refused);
    ASSERT_EQ(heard.size(), 4u);
    EXPECT_EQ(heard[1].verb, Verb::submit);
    EXPECT_EQ(heard[2].verb, Verb::area);
    EXPECT_EQ(heard[2].a, 0u);
    EXPECT_EQ(heard[3].verb, Verb::submit);
}

// What the caller can do meanwhile is done when it has brought everything, not between rounds that the device waits for.
TEST(StrangeHelper, AsksInRounds)
{
    struct Rounds : Case {
        explicit Rounds(const Case &c) : Case(c) {}
        void copy(size_t index, const offload::Entry &tile, void *slab) override
        {
            before.push_back(meanwhile);
            Case::copy(index, tile, slab);
        }
        std::vector<uint64_t> before;
    };
    StrangeHelper helper([&](StrangeHelper *h) {
        h->welcome();
        h->receive();
        for (uint64_t later : {uint64_t{1}, uint64_t{0}}) {
            h->need({Wanted::tile, 0, some().entries()[later].id, 2 * kArea, 0, 0, 10}, 1, later);
            h->receive();
        }
        h->send(Verb::done);
    });
    Client client;
    client.connect(helper.socket().c_str(), wait_for_test);
    Rounds c(Case::over(some(), 1, false));
    c.ask(&client, c.queries(1));
    EXPECT_EQ(c.before, (std::vector<uint64_t>{0, 0}));
    EXPECT_EQ(c.meanwhile, 1u);
}

}  // namespace
}  // namespace vkv::gpu
