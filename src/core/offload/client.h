// A client of the helper program: one connection, one request at a time. Knows no PostgreSQL: how it waits and where tiles come
// from is the caller's. Belongs to one thread.
//
// Whatever a callback throws leaves through the call, and the client must be closed then: the helper drops what was asked.
#pragma once
#include <cstdint>
#include <exception>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/offload/protocol.h"

namespace vkv::offload {

// The connection is gone or makes no sense: the helper died, or is another version. The answer must come from elsewhere.
class Lost : public std::exception {
public:
    explicit Lost(std::string what) : what_(std::move(what)) {}
    const char *what() const noexcept override { return what_.c_str(); }

private:
    std::string what_;
};

// The helper will not or cannot do this request; it lives on, and so does the connection (except for FailureCode::device).
class Refused : public std::exception {
public:
    Refused(FailureCode code, std::string what) : code_(code), what_(std::move(what)) {}
    FailureCode code() const noexcept { return code_; }
    const char *what() const noexcept override { return what_.c_str(); }

private:
    FailureCode code_;
    std::string what_;
};

// Where entries and tiles come from.
class TileSource {
public:
    virtual ~TileSource() = default;
    // Appends the entries of tiles of spans[index] that begin at `from` or behind it, or cover it, in order of position, then head.
    virtual void entries(size_t index, int32_t from, std::vector<Entry> *out) = 0;
    // Copies the tile (varlena word and all, at most kSlabBytes) to `slab`.
    virtual void copy(size_t index, const Entry &tile, void *slab) = 0;
};

struct AttendCall {
    uint32_t kv_heads = 0, rows = 0, q_len = 1, dim_k = 0, dim_v = 0, tile_flags = 0;
    float scale = 1, softcap = 0;
    bool causal = true;
    int32_t window = 0, sinks = 0;
    std::span<const Item> items;
    std::span<const Span> spans;
    // What the caller believes the helper's table of a span covers (from the last call): entries are asked for from there on.
    std::span<const int32_t> believed;
    uint64_t deadline_us = 0;
    Fault fault = Fault::none;
    // Called when the request is laid out: q [items][kv_heads][rows][dim_k], to be filled.
    std::function<void(float *queries)> write_queries;
    // Called once the request was handed over and the helper works on it: what the caller can do meanwhile. May be empty.
    std::function<void()> meanwhile;
};

class Client {
public:
    // Waits until the socket can be read; throws to give up. Without one the socket blocks.
    using Wait = std::function<void(int socket)>;

    Client() = default;
    ~Client() { close(); }
    Client(const Client &) = delete;
    Client &operator=(const Client &) = delete;

    // Throws Lost. The helper knows who connects; `name` is the process id unless the helper calls itself.
    void connect(const char *path, Wait wait, uint64_t name = 0);
    bool connected() const { return socket_ >= 0; }
    void close() noexcept;
    int socket() const { return socket_; }

    // The states, [items][kv_heads] of {m, l, o} as in AttendRequest, valid until the next call. Throws Lost, Refused and
    // what callbacks throw.
    const float *attend(const AttendCall &call, TileSource *source);

    // results [queries][k]; write(queries, vectors) fills the request's memory.
    struct NearestCall {
        Metric metric = Metric::l2_squared;
        uint32_t dim = 0, queries = 0, rows = 0, k = 0;
        uint64_t deadline_us = 0;
        std::function<void(float *queries, float *vectors)> write;
    };
    const Neighbor *nearest(const NearestCall &call);

    const Figures &figures() const { return figures_; }  // of the last request that was answered
    const ArenaHeader &arena() const { return *static_cast<const ArenaHeader *>(arena_); }

private:
    struct Area {
        uint64_t at = 0, bytes = 0;
    };

    Message receive();
    void send(Verb verb, uint64_t a, uint64_t b = 0);
    void take_welcome(const Message &welcome, int arena);
    uint8_t *area() const { return static_cast<uint8_t *>(arena_) + area_.at; }
    void use_area(uint64_t bytes);
    void bring_entries(const AttendCall &call, TileSource *source);
    void lay_out(const AttendCall &call);
    void ask_for_entries(const AttendCall &call, TileSource *source, uint64_t count);
    uint64_t stage(const AttendCall &call, TileSource *source, uint64_t count);
    const float *finish(const AttendCall &call);
    [[noreturn]] void refused(const Message &message);

    int socket_ = -1;
    void *arena_ = nullptr;
    size_t arena_bytes_ = 0;
    Area first_, area_;  // the client's own area, and the one that the present request lies in
    AttendRequest request_{};
    std::vector<Span> spans_;
    std::vector<std::vector<Entry>> entries_;  // [spans]
    std::vector<float> states_;                // of a request in a larger area, which goes back at once
    std::vector<Neighbor> neighbors_;
    Figures figures_{};
    Wait wait_;
};

}  // namespace vkv::offload
