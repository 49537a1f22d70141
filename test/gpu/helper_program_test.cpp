// The real program: its command line, signals, the supervisor's socket, faults, and what it measures.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>

#include <atomic>

#include "raw_client.h"

namespace vkv::gpu {
namespace {

using offload::Client;
using offload::Fault;
using offload::Lost;
using offload::Message;
using offload::Refused;
using offload::Verb;

const Extent &small_extent()
{
    static const Extent extent({}, 0, 200, 1);
    return extent;
}

void wait_until_measured(const offload::ArenaHeader &head)
{
    const uint64_t begun = now_us();
    while (counter(head.bytes_per_second) == 0 || counter(head.slots_used) != 0) {
        ASSERT_LT(now_us() - begun, 60000000u);
        ::usleep(1000);
    }
}

TEST(HelperProgram, AnswersAsTheProcessItself)
{
    const Folder folder;
    HelperProcess helper(VKV_HELPER, folder.socket(), {"--memory", "64", "--threads", "2"});
    Client client;
    connect_patiently(&client, folder.socket());
    const Extent extent({}, 0, 500, 1);
    Case first = Case::over(extent, 1, true);
    EXPECT_LT(first.error(&client), kClose);
    EXPECT_EQ(first.copied, extent.tiles());
    EXPECT_EQ(client.figures().hits, 0u);
    Case again = Case::over(extent, 1, true, extent.end());
    EXPECT_LT(again.error(&client, 2), kClose);
    EXPECT_EQ(again.copied, 0u);
    EXPECT_EQ(again.listed, 0u);
    EXPECT_EQ(client.figures().hits, extent.tiles());
    struct stat facts {};
    EXPECT_EQ(::stat(folder.socket().c_str(), &facts), 0);
    EXPECT_EQ(facts.st_mode & 0777, 0600u);
    EXPECT_EQ(helper.end(SIGTERM), 0);
    EXPECT_NE(::stat(folder.socket().c_str(), &facts), 0);
}

TEST(HelperProgram, MeasuresItselfAndForgetsIt)
{
    const Folder folder;
    HelperProcess helper(VKV_HELPER, folder.socket(), {"--memory", "64"});
    Client client;
    connect_patiently(&client, folder.socket());
    const offload::ArenaHeader &head = client.arena();
    wait_until_measured(head);
    EXPECT_GT(head.launch_ns, 1000u);
    EXPECT_LT(head.launch_ns, 100000000u);
    EXPECT_GT(head.bytes_per_second, 1000000u);
    EXPECT_GT(head.staging_per_second, 1000000u);
    EXPECT_EQ(head.requests + head.batches + head.hits + head.misses + head.staged_bytes + head.dropped, 0u);
    EXPECT_EQ(head.clients, 1u);
    EXPECT_EQ(head.helper_pid, static_cast<uint64_t>(helper.pid()));
}

TEST(HelperProgram, CommandLine)
{
    const Folder folder;
    const auto ends = [&](const std::vector<std::string> &options) {
        return HelperProcess(VKV_HELPER, folder.socket(), options).wait();
    };
    EXPECT_EQ(ends({"--version"}), 0);
    EXPECT_EQ(ends({"--nonsense"}), 1);
    EXPECT_EQ(ends({"--memory"}), 1);
    EXPECT_EQ(ends({"--memory", "12x"}), 1);
    EXPECT_EQ(ends({"--memory", "-1"}), 1);
    EXPECT_EQ(ends({"--arena", "1"}), 1);
    EXPECT_EQ(ends({"--device", "abacus"}), 1);
    EXPECT_EQ(ends({"--socket", "/nowhere/at/all"}), 1);
    EXPECT_EQ(ends({"--socket", std::string(200, 'x')}), 1);
}

TEST(HelperProgram, KilledWhileItWorks)
{
    const Folder folder;
    HelperProcess helper(VKV_HELPER, folder.socket(), {"--launch-delay-us", "300000"});
    Client client;
    connect_patiently(&client, folder.socket());
    std::thread killer([&] {
        EXPECT_TRUE(wait_for_launch(folder.socket()));
        helper.kill(SIGKILL);
    });
    Case c = Case::over(small_extent(), 1, true);
    EXPECT_THROW(c.error(&client), Lost);
    killer.join();
    EXPECT_EQ(helper.wait(), 256 + SIGKILL);
    EXPECT_THROW(c.error(&client), Lost);  // and again, without harm
    client.close();
    EXPECT_THROW(c.error(&client), Lost);
    // The next one starts with nothing, at the same place.
    HelperProcess next(VKV_HELPER, folder.socket(), {});
    connect_patiently(&client, folder.socket());
    Case d = Case::over(small_extent(), 1, true, small_extent().end());
    EXPECT_LT(d.error(&client), kClose);
    EXPECT_EQ(d.copied, small_extent().tiles());
}

TEST(HelperProgram, AsksToEndAreHeardAfterTheAnswer)
{
    const Folder folder;
    HelperProcess helper(VKV_HELPER, folder.socket(), {"--faults"});
    Client client;
    connect_patiently(&client, folder.socket());
    wait_until_measured(client.arena());
    std::thread ender([&] {
        EXPECT_TRUE(wait_for_launch(folder.socket()));
        helper.kill(SIGTERM);
    });
    Case c = Case::over(small_extent(), 1, true);
    c.fault = Fault::slow;
    EXPECT_LT(c.error(&client), kClose);
    ender.join();
    EXPECT_EQ(helper.wait(), 0);
}

// Long enough for an answer that comes, and for the age of a launch that hangs.
void wait_in_vain(int socket)
{
    pollfd p{socket, POLLIN, 0};
    if (::poll(&p, 1, 6000) == 0) throw std::runtime_error("no answer within six seconds");
}

TEST(HelperProgram, Faults)
{
    const Folder folder;
    const auto with = [&](Fault fault, const std::function<void(Client *, HelperProcess *)> &check) {
        HelperProcess helper(VKV_HELPER, folder.socket(), {"--faults"});
        Client client;
        connect_patiently(&client, folder.socket(), fault == Fault::hang ? wait_in_vain : wait_for_test);
        Case c = Case::over(small_extent(), 1, true);
        EXPECT_LT(c.error(&client), kClose);
        c.fault = fault;
        try {
            EXPECT_LT(c.error(&client), kClose);
            EXPECT_EQ(fault, Fault::slow);
        } catch (const Refused &refused) {
            EXPECT_EQ(fault, Fault::device_error);
            EXPECT_EQ(refused.code(), offload::FailureCode::device);
        } catch (const Lost &) {
            EXPECT_EQ(fault, Fault::crash);
        } catch (const std::runtime_error &) {
            EXPECT_EQ(fault, Fault::hang);  // the test's patience is at its end
        }
        check(&client, &helper);
    };
    with(Fault::slow, [](Client *client, HelperProcess *helper) {
        EXPECT_GT(client->figures().device_us, 200000u);
        EXPECT_EQ(helper->end(SIGTERM), 0);
    });
    with(Fault::crash, [](Client *, HelperProcess *helper) { EXPECT_EQ(helper->wait(), 256 + SIGABRT); });
    with(Fault::device_error, [](Client *, HelperProcess *helper) { EXPECT_EQ(helper->wait(), 3); });
    with(Fault::hang, [&](Client *client, HelperProcess *helper) {
        client->close();
        RawClient other(folder.socket());  // it still speaks
        other.hello();
        other.send(Verb::ping, 1);
        EXPECT_GT(other.receive().value().b, 5000000u);
        const uint64_t begun = now_us();
        EXPECT_EQ(helper->end(SIGTERM), 0);  // and ends, although the launch does not
        EXPECT_LT(now_us() - begun, 30000000u);
    });
}

TEST(HelperProgram, StallsOnlyForTests)
{
    const Folder folder;
    HelperProcess helper(VKV_HELPER, folder.socket(), {"--faults"});
    Client client;
    connect_patiently(&client, folder.socket());
    RawClient raw(folder.socket());
    raw.hello();
    const uint64_t begun = now_us();
    raw.send(Verb::stall, 300000);
    raw.send(Verb::ping, 1);
    EXPECT_EQ(raw.receive().value().verb, Verb::pong);
    EXPECT_GT(now_us() - begun, 290000u);
}

TEST(HelperProgram, TheSupervisorsSocket)
{
    const Folder folder;
    int pair[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    ::fcntl(pair[1], F_SETFD, 0);  // the helper's; its own end must not keep the other one open
    HelperProcess helper(VKV_HELPER, folder.socket(), {"--control-fd", std::to_string(pair[1]), "--launch-delay-us", "200000"});
    ::close(pair[1]);
    const auto ping = [&](uint64_t a) {
        const Message message{Verb::ping, 0, a, 0, 0};
        EXPECT_EQ(::send(pair[0], &message, sizeof message, 0), static_cast<ssize_t>(sizeof message));
        Message answer{};
        wait_for_test(pair[0]);
        EXPECT_EQ(::recv(pair[0], &answer, sizeof answer, 0), static_cast<ssize_t>(sizeof answer));
        EXPECT_EQ(answer.verb, Verb::pong);
        EXPECT_EQ(answer.a, a);
        return answer;
    };
    ping(1);
    Client client;
    connect_patiently(&client, folder.socket());
    uint64_t oldest = 0;
    const uint64_t begun = now_us();
    for (int launch = 0; oldest <= 50000 && launch < 100; launch++) {  // a busy machine may sleep through some
        std::atomic<bool> answered = false;
        std::thread asks([&] {
            Case c = Case::over(small_extent(), 1, true);
            EXPECT_LT(c.error(&client), kClose);
            answered = true;
        });
        for (uint64_t i = 0; !answered; i++) {
            oldest = std::max(oldest, ping(i).b);
            ::usleep(10000);
        }
        asks.join();
    }
    EXPECT_GT(oldest, 50000u);
    EXPECT_LT(oldest, now_us() - begun);
    ::close(pair[0]);
    EXPECT_EQ(helper.wait(), 0);
}

}  // namespace
}  // namespace vkv::gpu
