// One connection a backend, made when it is first wanted. It is closed whenever a request on it did not come to its end: at an
// error, when its subtransaction is rolled back, when the helper does not answer in time. The helper frees then what the request
// held.

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>

#include "core/offload/client.h"
#include "core/offload/crossover.h"
#include "core/text/message.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/gpu/helper.h"
#include "pg/gpu/settings.h"
#include "pg/gpu/shared.h"

namespace vkv::helper {

namespace {

constexpr uint64_t kConnectUs = 1000000;  // a helper that lives welcomes at once
constexpr uint64_t kPauseUs = 5000000;    // after it kept a session waiting for nothing
constexpr uint64_t kRetryUs = 1000000;    // after it could not be reached
constexpr long kStepMs = 1000;            // of waiting
constexpr double kPartOfTimeout = 100;    // the helper may be that much slower than it was measured to be, beside others

// No answer in time: as if it were lost.
class TimedOut : public offload::Lost {
public:
    using Lost::Lost;
};

// Of the backend: made with the first connection, never destroyed.
struct Session {
    offload::Client client;
    uint64_t generation = 0;
    WaitEventSet *events = nullptr;
    uint64_t asked_us = 0, deadline_us = 0;
    uint64_t paused_until_us = 0, paused_generation = 0;  // another helper gets another chance
    Cause paused_for = Cause::paused;
    int busy = 0;  // transaction nest level that a request under way belongs to; 0: none
    bool told = false;
};

Session *session = nullptr;
constinit offload::OwnSpeed own_speed;
constinit SessionFigures figures{};
constinit offload::Figures last_figures{};
constinit uint64_t last_waited_us = 0;
constinit bool last_on_cpu_device = false;

uint64_t now_us()
{
    return static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now().time_since_epoch()).count());
}

// Called by PostgreSQL too: trivial locals only, and nothing that raises.
void drop_connection() noexcept
{
    if (session == nullptr) return;
    session->busy = 0;
    if (session->events != nullptr) FreeWaitEventSet(session->events);
    session->events = nullptr;
    session->client.close();
}

void at_transaction_end(XactEvent, void *)
{
    if (session->busy != 0) drop_connection();
}

void at_subtransaction_end(SubXactEvent event, SubTransactionId, SubTransactionId, void *)
{
    if (event == SUBXACT_EVENT_ABORT_SUB && session->busy >= GetCurrentTransactionNestLevel()) drop_connection();
}

Session *own_session()
{
    if (session != nullptr) return session;
    session = new Session;
    pg_call([] {
        RegisterXactCallback(entry<at_transaction_end>, nullptr);
        RegisterSubXactCallback(entry<at_subtransaction_end>, nullptr);
    });
    return session;
}

void make_wait_set(int socket)
{
    session->events = pg_call([=] {
        WaitEventSet *set = compat::create_wait_set(3);
        AddWaitEventToSet(set, WL_SOCKET_READABLE, socket, nullptr, nullptr);
        AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, nullptr);
        AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, nullptr, nullptr);
        return set;
    });
}

// Until the socket can be read. Cancel and termination leave as PgError.
void wait_for(int socket)
{
    if (session->events == nullptr) make_wait_set(socket);
    for (;;) {
        const uint64_t time = now_us(), deadline = session->deadline_us;
        if (deadline != 0 && time >= deadline)
            throw TimedOut(message("no answer within %llu ms", static_cast<unsigned long long>((time - session->asked_us) / 1000)));
        // Its socket stays open while it cannot end (uninterruptible sleep).
        if (session->generation != 0 && pg_atomic_read_u64(&shared()->killed) == session->generation)
            throw offload::Lost("it was killed");
        const long left = deadline == 0 ? kStepMs : static_cast<long>((deadline - time) / 1000 + 1);
        const bool readable = pg_call([=] {
            CHECK_FOR_INTERRUPTS();
            WaitEvent event[2];
            const int n = WaitEventSetWait(session->events, std::min(left, kStepMs), event, 2, wait_event());
            bool ready = false;
            for (int i = 0; i < n; ++i) {
                if ((event[i].events & WL_SOCKET_READABLE) != 0) ready = true;
                if ((event[i].events & WL_LATCH_SET) == 0) continue;
                ResetLatch(MyLatch);
                CHECK_FOR_INTERRUPTS();
            }
            return ready;
        });
        if (readable) return;
    }
}

void count(Cause cause)
{
    ++figures.on_cpu;
    figures.last_reason = cause_text(cause);
    if (shared() != nullptr) pg_atomic_fetch_add_u64(&shared()->causes[static_cast<int>(cause)], 1);
}

std::string reason_of_record()
{
    const Locked locked(LW_SHARED);
    return shared()->record.reason;
}

[[noreturn]] void missing(const std::string &why, const char *hint)
{
    throw Error(Errc::wrong_state, "the GPU helper cannot be used: " + why, hint, "vectorkv.gpu is \"require\".");
}

void pause(uint64_t microseconds, Cause why)
{
    session->paused_until_us = now_us() + microseconds;
    session->paused_generation = pg_atomic_read_u64(&shared()->ready);
    session->paused_for = why;
}

bool pause_if_late(const offload::Lost &error)
{
    const bool late = dynamic_cast<const TimedOut *>(&error) != nullptr;
    if (late) pause(kPauseUs, Cause::paused);
    return late;
}

// Connected to the helper that is ready now; otherwise the cause, and *detail for who requires it.
std::optional<Cause> connect(std::string *detail)
{
    const uint64_t ready = pg_atomic_read_u64(&shared()->ready);
    if (ready == 0) {
        if (use() == Use::require) *detail = reason_of_record();
        return Cause::not_running;
    }
    Session *s = own_session();
    if (s->busy != 0) return Cause::busy;
    if (s->client.connected() && s->generation == ready) return {};
    drop_connection();
    const uint64_t time = now_us();
    if (use() != Use::require && time < s->paused_until_us && s->paused_generation == ready) return s->paused_for;
    s->generation = ready;  // before it waits: the one before may have been killed, this one lives
    s->asked_us = time;
    s->deadline_us = time + kConnectUs;
    try {
        s->client.connect(kSocketPath, wait_for);
        if (s->events == nullptr) make_wait_set(s->client.socket());
    } catch (const offload::Lost &error) {
        drop_connection();
        if (!pause_if_late(error)) pause(kRetryUs, Cause::unreachable);
        *detail = error.what();
        return Cause::unreachable;
    } catch (...) {
        drop_connection();
        throw;
    }
    return {};
}

offload::HelperSpeed speed_of(const offload::ArenaHeader &arena)
{
    return {arena.launch_ns, arena.bytes_per_second, arena.staging_per_second};
}

// Whether the call is for the CPU by what auto knows before it connects, or after.
std::optional<Cause> decide(const Estimate &estimate, bool connected)
{
    if (use() != Use::automatic) return {};
    if (pg_atomic_read_u32(&shared()->cpu_device) != 0) return Cause::cpu_device;
    if (estimate.own_ns == 0 && !own_speed.known()) return Cause::unmeasured;
    if (!connected) return {};
    const offload::HelperSpeed speed = speed_of(session->client.arena());
    const uint64_t bytes = estimate.tile_bytes, staged = estimate.staged_bytes;
    const bool faster = estimate.own_ns != 0 ? offload::helper_is_faster(speed, estimate.own_ns, bytes, staged)
                                             : offload::helper_is_faster(speed, own_speed, bytes, staged);
    return faster ? std::optional<Cause>() : Cause::slower;
}

// The call goes to the CPU after all.
void fall_back(Cause cause, const std::string &what, Errc required)
{
    count(cause);
    if (use() == Use::require)
        throw Error(required, message("%s: %s", cause_text(cause), what.c_str()),
                    "Set vectorkv.gpu to \"auto\" to have the CPU answer.");
    const bool loud = use() == Use::on && !session->told;
    if (use() == Use::on) session->told = true;
    const char *text = what.c_str();
    pg_call([=] {
        ereport(loud ? NOTICE : DEBUG1, (errmsg("%s: %s", cause_text(cause), text), errdetail("The CPU answers."),
                                         loud ? errhint("This is said once a session; see kv.gpu_status() and kv.gpu_stats.") : 0));
    });
}

Cause cause_of(offload::FailureCode code)
{
    switch (code) {
        case offload::FailureCode::not_supported:
            return Cause::not_supported;
        case offload::FailureCode::too_large:
            return Cause::too_large;
        case offload::FailureCode::no_room:
            return Cause::no_room;
        case offload::FailureCode::expired:
            return Cause::expired;
        case offload::FailureCode::bad_tile:
            return Cause::bad_tile;
        case offload::FailureCode::device:
            return Cause::device;
        case offload::FailureCode::none:
        case offload::FailureCode::malformed:
            break;
    }
    return Cause::malformed;
}

}  // namespace

Use use() { return static_cast<Use>(settings.use); }

offload::Client *client_for(const Estimate &estimate, const char **why)
{
    if (use() == Use::off) {
        *why = "vectorkv.gpu is off";
        return nullptr;
    }
    if (shared() == nullptr) {
        if (use() == Use::require)
            missing("vector is not in shared_preload_libraries",
                    "Add vector to shared_preload_libraries and restart the server, or set vectorkv.gpu to \"auto\".");
        *why = "vector is not in shared_preload_libraries";
        return nullptr;
    }
    std::string detail;
    auto cause = decide(estimate, false);
    if (!cause) cause = connect(&detail);
    if (!cause) cause = decide(estimate, true);
    if (!cause) {
        *why = nullptr;
        return &session->client;
    }
    count(*cause);
    *why = cause_text(*cause);
    if (use() == Use::require)
        missing(detail.empty() ? *why : detail, "See kv.gpu_status(), or set vectorkv.gpu to \"auto\" to have the CPU answer.");
    return nullptr;
}

void lost(const offload::Lost &error)
{
    drop_connection();
    fall_back(pause_if_late(error) ? Cause::timed_out : Cause::lost, error.what(), Errc::wrong_state);
}

void refused(const offload::Refused &error)
{
    session->busy = 0;
    if (error.code() == offload::FailureCode::device) drop_connection();
    const Cause cause = cause_of(error.code());
    fall_back(cause, error.what(),
              cause == Cause::not_supported || cause == Cause::too_large ? Errc::not_supported : Errc::wrong_state);
}

void abandon() noexcept { drop_connection(); }

void count_answer(const offload::Figures &f, uint64_t waited_us)
{
    session->busy = 0;
    last_figures = f;
    last_waited_us = waited_us;
    last_on_cpu_device = pg_atomic_read_u32(&shared()->cpu_device) != 0;
    ++figures.requests;
    figures.batches += f.launches;
    figures.tiles += f.tiles;
    figures.cached += f.hits;
    figures.staged += f.tiles - f.hits;
    figures.tile_bytes += f.tile_bytes;
    figures.staged_bytes += f.staged_bytes;
    figures.device_us += f.device_us;
    figures.queued_us += f.queued_us;
    figures.waited_us += waited_us;
    pg_atomic_fetch_add_u64(&shared()->answered, 1);
    pg_atomic_fetch_add_u64(&shared()->waited_us, static_cast<int64>(waited_us));
}

void count_cpu(uint64_t tile_bytes, uint64_t microseconds) { own_speed.add(tile_bytes, microseconds); }

uint64_t deadline_us()
{
    const uint64_t time = now_us();
    const uint64_t deadline = settings.timeout_ms > 0 ? time + static_cast<uint64_t>(settings.timeout_ms) * 1000 : 0;
    if (session != nullptr) {
        session->asked_us = time;
        session->deadline_us = deadline;
        session->busy = GetCurrentTransactionNestLevel();
    }
    return deadline;
}

uint32_t max_tiles()
{
    const auto launch = static_cast<uint64_t>(settings.max_launch_tiles);
    if (session == nullptr || !session->client.connected()) return static_cast<uint32_t>(launch);
    return static_cast<uint32_t>(std::min(launch, session->client.arena().slots));
}

uint64_t max_products(bool by_processor)
{
    const bool connected = !by_processor && session != nullptr && session->client.connected();
    const uint64_t speed = offload::products_per_second(connected ? session->client.arena().bytes_per_second : 0);
    return static_cast<uint64_t>(static_cast<double>(speed) * settings.hang_timeout_ms / 1000 / kPartOfTimeout);
}

offload::Fault test_fault() { return settings.faults ? static_cast<offload::Fault>(settings.test_fault) : offload::Fault::none; }

uint64_t generation() { return session != nullptr && session->client.connected() ? session->generation : 0; }

const SessionFigures &session_figures() { return figures; }

const char *answered_by() { return last_on_cpu_device ? "helper cpu" : "helper cuda"; }

const char *session_line()
{
    if (figures.requests == 0) return nullptr;
    const offload::Figures &f = last_figures;
    return pg_call([&] {
        return static_cast<const char *>(
            psprintf("helper: batch=%u tiles=%llu cached=%llu staged=%llu read=%.1f MB device=%.3f ms wait=%.3f ms", f.batch,
                     static_cast<unsigned long long>(f.tiles), static_cast<unsigned long long>(f.hits),
                     static_cast<unsigned long long>(f.tiles - f.hits), static_cast<double>(f.tile_bytes) * 1e-6,
                     static_cast<double>(f.device_us) * 1e-3, static_cast<double>(last_waited_us) * 1e-3));
    });
}

}  // namespace vkv::helper
