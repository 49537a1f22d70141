// The backend's side of the helper program: whether to use it, the connection, and what is counted.
#pragma once
#include <cstdint>

#include "core/offload/client.h"
#include "pg/boundary/boundary.h"

namespace vkv::helper {

// vectorkv.gpu
enum class Use : int { off, automatic, on, require };
Use use();

// What a call would cost, for `auto`: bytes of tiles it reads. The decision compares the helper's measured speed (ArenaHeader) with
// this backend's own.
struct Estimate {
    uint64_t tile_bytes = 0;
    uint64_t staged_bytes = 0;  // that the helper probably lacks
    uint64_t own_ns = 0;        // that the call takes here, where the caller knows; 0: what the bytes have taken before
};

// A connected client, or null when the call is for the CPU; *why then says the reason in a few words (static text). Raises under
// `require` when there is no helper. Raises nothing else.
offload::Client *client_for(const Estimate &estimate, const char **why);

// The helper was lost, or refused the call: the CPU answers. Counts it, tells the user once a session (NOTICE under `on`), raises
// under `require` (object_not_in_prerequisite_state, or feature_not_supported when refused for that reason).
void lost(const offload::Lost &error);
void refused(const offload::Refused &error);
// Something else left Client's functions (cancel, an error of ours): the connection must go.
void abandon() noexcept;

// Calls ask(), which uses the client, and gives what it returns; false where the CPU has to answer: the three above, as it ends.
template <typename Ask>
bool answered(Ask &&ask)
{
    try {
        return ask();
    } catch (const offload::Lost &error) {
        lost(error);
    } catch (const offload::Refused &error) {
        refused(error);
    } catch (...) {
        abandon();
        throw;
    }
    return false;
}

// An answered request, and the backend's own waiting.
void count_answer(const offload::Figures &figures, uint64_t waited_us);
// The CPU answered `tile_bytes` in `microseconds`: what `auto` compares with.
void count_cpu(uint64_t tile_bytes, uint64_t microseconds);

// CLOCK_MONOTONIC, from vectorkv.gpu_timeout; 0: none. Call it right before each request: from here to count_answer(), lost(),
// refused() or abandon() the connection is taken.
uint64_t deadline_us();
uint32_t max_tiles();  // of one request (vectorkv.gpu_max_launch_tiles and the cache's size)
// Of one request, however it is made up: what takes the helper a small part of vectorkv.gpu_hang_timeout, so that no launch is
// taken for one that hangs, and others get their turn (core/offload/crossover.h).
uint64_t max_products(bool by_processor = false);  // what a GPU does not do itself
offload::Fault test_fault();                       // vectorkv.gpu_test_fault; none unless the helper was started for it
uint64_t generation();                             // of the helper connected to: changes with every new one

// What this session had from the helper: for statistics.
struct SessionFigures {
    uint64_t requests, batches, tiles, cached, staged, tile_bytes, staged_bytes, device_us, queued_us, waited_us;
    uint64_t on_cpu;          // calls that could have gone to the helper and did not
    const char *last_reason;  // of these, static text; null: none yet
};
const SessionFigures &session_figures();
const char *answered_by();  // "helper cuda" or "helper cpu": what answered the session's last request; static text
// The same of the last request in one line, palloc'ed, or null before the first one:
// "helper: batch=3 tiles=4682 cached=4650 staged=32 read=38 MB device=0.04 ms wait=0.11 ms"
const char *session_line();

}  // namespace vkv::helper
