// What the two device threads are given, and how they say that it is done.
#include "gpu/jobs.h"

#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "core/error.h"
#include "core/kv/tile.h"

namespace vkv::gpu {

using namespace offload;

uint64_t now_us()
{
    timespec t{};
    ::clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<uint64_t>(t.tv_sec) * 1000000 + static_cast<uint64_t>(t.tv_nsec) / 1000;
}

bool send_message(int fd, const Message &message)
{
    return ::send(fd, &message, sizeof message, MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof message;
}

void write_failure(uint8_t *area, const std::string &text)
{
    char out[sizeof(RequestHeader::failure)] = {};
    std::memcpy(out, text.data(), std::min(text.size(), sizeof out - 1));
    std::memcpy(area + offsetof(RequestHeader, failure), out, sizeof out);
}

// ---- copies ----------------------------------------------------------------------------------------------------------------

namespace {

[[noreturn]] void bad(const Entry &entry, const std::string &what)
{
    throw Failure(FailureCode::bad_tile,
                  "the tile of head " + std::to_string(entry.head) + " at position " + std::to_string(entry.first) + " " + what);
}

CopyRound::Facts check_tile(const void *slab, const Entry &entry, const TileKind &kind)
{
    kv::TileHeader header;
    std::memcpy(&header, slab, sizeof header);
    if (header.codec >= kv::kCodecs || header.dim_k != kind.dim_k || header.dim_v != kind.dim_v || header.flags != kind.flags ||
        header.heads != kind.heads)
        bad(entry, "has another shape than the request says");
    if (header.id != entry.id || header.first != static_cast<uint32_t>(entry.first) || header.tokens != entry.tokens ||
        header.head != entry.head)
        bad(entry, "is not the one that was named");
    const size_t bytes = kv::tile_bytes(kv::shape_of(header), header.tokens);
    if (bytes > kSlabBytes) bad(entry, "is larger than a slab");
    try {
        kv::view_tile(slab, bytes);
    } catch (const Error &error) {
        bad(entry, "is damaged: " + error.message());
    }
    if (kv::tile_checksum(slab, bytes) != header.crc) bad(entry, "is damaged: its checksum is wrong");
    return {static_cast<uint16_t>(bytes), header.codec};
}

}  // namespace

void copy_round(Device *device, CopyRound *round)
{
    try {
        std::vector<kv::TileHeader> headers(round->fills.size());
        for (size_t i = 0; i < round->fills.size(); i++) {
            std::memcpy(&headers[i], round->copies[i].slab, sizeof headers[i]);
            round->facts.push_back(check_tile(round->copies[i].slab, round->fills[i].entry, round->kind));
        }
        device->copy(round->copies);
        // Kernels believe headers: one that was exchanged meanwhile must not lead them astray.
        for (size_t i = 0; i < round->fills.size(); i++)
            if (std::memcmp(&headers[i], round->copies[i].slab, sizeof headers[i]) != 0)
                bad(round->fills[i].entry, "changed while it was copied");
    } catch (const Failure &failure) {
        round->bad_tile = failure.what();
    } catch (const std::exception &error) {
        round->device_error = error.what();
    }
}

// ---- launches --------------------------------------------------------------------------------------------------------------

namespace {

void inject(Fault fault)
{
    switch (fault) {
        case Fault::none:
            break;
        case Fault::hang:
            for (;;) ::pause();
        case Fault::crash:
            std::abort();
        case Fault::device_error:
            throw std::runtime_error("a test asked for a failure of the device");
        case Fault::slow:
            ::usleep(200000);
            break;
    }
}

void run_nearest(Device *device, const Request &request)
{
    const NearestRequest &r = request.nearest;
    device->nearest(r, reinterpret_cast<const float *>(request.area + r.queries_at),
                    reinterpret_cast<const float *>(request.area + r.vectors_at),
                    reinterpret_cast<Neighbor *>(request.area + r.results_at));
}

}  // namespace

void run_launch(Device *device, Launch *launch)
{
    const uint64_t begun = now_us();
    try {
        for (const Launch::Answer &answer : launch->answers) inject(answer.request->header.fault);
        if (!launch->answers.front().request->is_attend())
            run_nearest(device, *launch->answers.front().request);
        else if (!launch->batch.heads.empty())
            device->attend(&launch->batch);
    } catch (const std::exception &error) {
        launch->device_error = error.what();
    }
    launch->device_us = now_us() - begun;
    for (Launch::Answer &answer : launch->answers) {
        uint8_t *area = answer.request->area;
        if (!launch->device_error.empty()) {
            write_failure(area, launch->device_error);
            send_message(answer.fd, {Verb::failed, 0, static_cast<uint64_t>(FailureCode::device), 0, 0});
            continue;
        }
        answer.figures.batch = static_cast<uint32_t>(launch->answers.size());
        answer.figures.launches = launch->batch.launches;
        answer.figures.device_us = launch->device_us;
        std::memcpy(area + offsetof(RequestHeader, figures), &answer.figures, sizeof answer.figures);
        answer.delivered = send_message(answer.fd, {Verb::done, 0, 0, 0, 0});
    }
}

}  // namespace vkv::gpu
