// The graph of an index build: nodes, codes and links in plain memory, filled by one thread and linked by several.
//
// Life: add() every vector (one thread) -> link_all() (threads) -> link_answers() (threads) -> reach_all() (one thread; afterwards
// every node can be reached from the entry) -> read. Links are read and written as atomics, without a lock for readers: a list that
// changed meanwhile is read again, since one read half-way through a change may lack a link that it has before and after. Writers
// of a list hold the node's spin lock; in link_answers() each list has one writer.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/codec/codec.h"
#include "core/graph/arena.h"
#include "core/graph/candidate.h"
#include "core/graph/link_list.h"
#include "core/graph/search.h"
#include "core/graph/select.h"

namespace vkv::graph {

// Levels are geometric: P(level >= l) = m^-l. A fixed generator, so that a build is repeatable.
class LevelGenerator {
public:
    LevelGenerator(uint32_t m, uint64_t seed);
    int next();

private:
    double scale_;
    uint64_t state_;
};

class InFlight;

struct BuildParams {
    uint32_t m = 16;
    uint32_t ef_construction = 64;
    uint64_t seed = 0;
    size_t payload_bytes =
        0;  // kept for the caller beside each node: the code that is written, if it is not the one the graph is built on
    std::function<void()> poll{};  // called again and again where add() takes long; may throw
};

class MemoryGraph {
public:
    MemoryGraph(const Codec &codec, const BuildParams &params, Arena &arena);

    // A node for this vector, or, if an equal one is there already, that node with the tid added. One thread.
    struct Added {
        uint32_t id;
        bool duplicate;
    };
    Added add(const VectorView &x, uint64_t hash, uint64_t tid);

    // Links every node added so far with `threads` threads. poll() is called on the calling thread about every 2 ms, or after each
    // node where no thread can be started, with the number of nodes done; a true answer stops the work early (then false is
    // returned).
    bool link_all(unsigned threads, const std::function<bool(uint64_t)> &poll);
    // Links every node to some of what a query for it finds, where queries ask by another distance than the one that links
    // (answers.cpp); after link_all(), and like it.
    bool asks_otherwise() const { return size_ > 0 && codec_.asking_code(code(0)) != nullptr; }
    bool link_answers(unsigned threads, const std::function<bool(uint64_t)> &poll);
    // Makes every node reachable from the entry; returns how many were not.
    // poll is called again and again, and may throw: a long walk is not to keep anybody from ending it.
    using Poll = std::function<void()>;
    uint32_t reach_all(const Poll &poll = {});
    // Searches for a sample of the nodes, after reach_all(), and links those that are missed, with all that lies around them, to
    // where their search began (find.cpp). How many links that took.
    uint32_t find_sample(const Poll &poll = {});
    // Node ids in an order that keeps neighbours together: breadth first from the entry.
    std::vector<uint32_t> order(const Poll &poll = {}) const;

    // How many distances a search of this width from the node's own vector evaluates.
    uint64_t probe(uint32_t id, uint32_t width) const;

    uint32_t size() const { return size_; }
    uint32_t entry() const { return entry_.load(std::memory_order_relaxed); }
    int level(uint32_t id) const { return node(id)->level; }
    uint64_t hash(uint32_t id) const { return node(id)->hash; }
    uint64_t tid(uint32_t id) const { return node(id)->tid; }
    const std::vector<std::pair<uint32_t, uint64_t>> &more_tids() const { return more_tids_; }  // (node, tid), in order of arrival
    const uint8_t *code(uint32_t id) const;
    size_t code_size(uint32_t id) const;
    uint8_t *payload(uint32_t id) const { return reinterpret_cast<uint8_t *>(node(id)) + payload_offset_; }
    size_t payload_bytes() const { return params_.payload_bytes; }
    uint32_t max_links(int level) const { return level == 0 ? 2 * params_.m : params_.m; }
    uint32_t links(uint32_t id, int level, uint32_t *out) const;
    size_t bytes() const { return arena_.used(); }
    double bytes_per_node() const { return size_ ? static_cast<double>(arena_.used()) / size_ : static_cast<double>(stride_); }
    const Codec &codec() const { return codec_; }

private:
    friend struct MemoryView;
    struct Scratch;
    using Link = std::atomic<uint32_t>;
    struct Node {
        std::atomic<uint8_t> lock;
        uint8_t level;
        std::atomic<uint16_t> version;  // of its lists; odd while one of them is being written
        uint32_t code_bytes;            // variable-sized codes only
        uint64_t hash;
        uint64_t tid;
        Link *upper;  // the lists of levels 1..level
    };

    Node *node(uint32_t id) const { return reinterpret_cast<Node *>(chunks_[id >> chunk_shift_] + (id & chunk_mask_) * stride_); }
    // A list: [0] = count | chosen << 16, the ids, and (for writers, under the lock) their distances.
    Link *list(uint32_t id, int level) const;
    static uint32_t count_of(uint32_t word) { return word & 0xFFFF; }
    size_t list_words(int level) const { return 1 + 2 * static_cast<size_t>(max_links(level)); }
    float *distances_in(Link *list, int level) const { return reinterpret_cast<float *>(list + 1 + max_links(level)); }
    void load_list(Link *from, int level, LinkList *to) const;
    void store_list(const LinkList &from, uint32_t id, int level) const;
    uint32_t find_equal(uint64_t hash, const uint8_t *code, size_t bytes) const;
    void remember(uint64_t hash, uint32_t id);
    void link(uint32_t id, unsigned worker, InFlight &in_flight, Scratch &s);
    bool find_hubs(std::vector<uint32_t> *hubs, const std::function<bool(uint64_t)> &poll) const;
    struct Answers {                     // that a node is linked to
        std::span<const uint32_t> hubs;  // where their search begins, too
        size_t width, most;
        bool counts_present;  // those that the list has count among `most`
    };
    void give_way(LinkList &list, Scratch &s) const;
    void add_answers(uint32_t id, const Answers &wanted, LinkList &list, Scratch &s) const;
    void link_pairs(uint32_t id, Scratch &s);
    bool has_room(uint32_t id, float distance, int level, Scratch &s) const;
    void add_link(uint32_t from, uint32_t to, float distance, int level, Scratch &s);
    void set_links(uint32_t id, int level, const Selected &to, Scratch &s);
    void attach(uint32_t id, const std::vector<bool> &reached, Scratch &s);
    bool is_found(uint32_t id, uint32_t *began, Scratch &s) const;
    bool give_filler(uint32_t from, uint32_t to, Scratch &s);
    void flood(uint32_t from, std::vector<bool> &reached, std::vector<uint32_t> &queue, const Poll &poll) const;

    const Codec &codec_;
    BuildParams params_;
    Arena &arena_;
    LevelGenerator levels_;
    size_t links_offset_, code_offset_, payload_offset_, stride_;
    unsigned chunk_shift_;
    uint32_t chunk_mask_;
    std::vector<uint8_t *> chunks_;
    uint32_t size_ = 0;
    std::atomic<uint32_t> entry_{kNoNode};
    std::atomic<int> top_level_{-1};
    std::vector<std::pair<uint32_t, uint64_t>> more_tids_;
    std::vector<uint32_t> by_hash_;  // open addressing, kNoNode = empty
    std::vector<uint8_t> code_scratch_;
};

}  // namespace vkv::graph
