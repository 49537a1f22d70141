// Nodes in fixed-size records of large chunks, and linking them: search, choose, link back. Several threads link at once; each list
// is guarded by the spin lock of its node, the entry point by a mutex.

#include "core/graph/memory_graph.h"

#include <cmath>
#include <cstring>
#include <mutex>
#include <new>
#include <thread>

#include "core/graph/in_flight.h"
#include "core/graph/memory_view.h"
#include "core/graph/workers.h"

namespace vkv::graph {

namespace {

constexpr uint32_t kPollEvery = 1024;

constexpr size_t align_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

uint64_t split_mix(uint64_t &state)
{
    uint64_t z = (state += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

class SpinLock {
public:
    explicit SpinLock(std::atomic<uint8_t> &lock) : lock_(lock)
    {
        for (int spins = 0; lock_.exchange(1, std::memory_order_acquire) != 0; ++spins)
            if (spins > 64) std::this_thread::yield();
    }
    ~SpinLock() { lock_.store(0, std::memory_order_release); }
    SpinLock(const SpinLock &) = delete;
    SpinLock &operator=(const SpinLock &) = delete;

private:
    std::atomic<uint8_t> &lock_;
};

}  // namespace

LevelGenerator::LevelGenerator(uint32_t m, uint64_t seed) : scale_(1.0 / std::log(static_cast<double>(m))), state_(seed) {}

int LevelGenerator::next()
{
    double u = (static_cast<double>(split_mix(state_) >> 11) + 1.0) * 0x1.0p-53;  // (0, 1]
    return std::min(static_cast<int>(-std::log(u) * scale_), kMaxLevel);
}

MemoryGraph::MemoryGraph(const Codec &codec, const BuildParams &params, Arena &arena)
    : codec_(codec), params_(params), arena_(arena), levels_(params.m, params.seed)
{
    const size_t code_bytes = codec.code_size() ? codec.code_size() : sizeof(uint8_t *);
    links_offset_ = align_up(sizeof(Node), 8);
    code_offset_ = align_up(links_offset_ + list_words(0) * sizeof(Link), 16);
    payload_offset_ = align_up(code_offset_ + code_bytes, 8);
    stride_ = align_up(payload_offset_ + params.payload_bytes, 16);
    chunk_shift_ = 0;
    while (chunk_shift_ < 16 && (stride_ << (chunk_shift_ + 1)) <= arena.chunk_bytes()) ++chunk_shift_;
    chunk_mask_ = (1u << chunk_shift_) - 1;
    by_hash_.assign(1024, kNoNode);
}

MemoryGraph::Link *MemoryGraph::list(uint32_t id, int level) const
{
    Node *n = node(id);
    if (level == 0) return reinterpret_cast<Link *>(reinterpret_cast<uint8_t *>(n) + links_offset_);
    return n->upper + static_cast<size_t>(level - 1) * list_words(1);
}

const uint8_t *MemoryGraph::code(uint32_t id) const
{
    const uint8_t *at = reinterpret_cast<const uint8_t *>(node(id)) + code_offset_;
    if (codec_.code_size()) return at;
    const uint8_t *apart;
    std::memcpy(&apart, at, sizeof(apart));
    return apart;
}

size_t MemoryGraph::code_size(uint32_t id) const { return codec_.code_size() ? codec_.code_size() : node(id)->code_bytes; }

uint32_t MemoryGraph::links(uint32_t id, int level, uint32_t *out) const
{
    const Node *of = node(id);
    if (level > of->level) return 0;
    const Link *l = list(id, level);
    for (int tries = 0;; ++tries) {
        const uint16_t before = of->version.load(std::memory_order_acquire);
        const uint32_t n = std::min(count_of(l[0].load(std::memory_order_acquire)), max_links(level));
        for (uint32_t i = 0; i < n; ++i) out[i] = l[1 + i].load(std::memory_order_acquire);
        if (before % 2 == 0 && of->version.load(std::memory_order_relaxed) == before) return n;
        if (tries > 64) std::this_thread::yield();
    }
}

uint32_t MemoryGraph::find_equal(uint64_t hash, const uint8_t *code_bytes, size_t bytes) const
{
    const size_t mask = by_hash_.size() - 1;
    for (size_t i = hash & mask; by_hash_[i] != kNoNode; i = (i + 1) & mask) {
        uint32_t id = by_hash_[i];
        if (node(id)->hash == hash && code_size(id) == bytes && std::memcmp(code(id), code_bytes, bytes) == 0) return id;
    }
    return kNoNode;
}

void MemoryGraph::remember(uint64_t hash, uint32_t id)
{
    if ((static_cast<size_t>(id) + 1) * 2 > by_hash_.size()) {
        by_hash_.assign(by_hash_.size() * 2, kNoNode);
        for (uint32_t other = 0; other < id; ++other) {
            if (params_.poll && other % kPollEvery == 0) params_.poll();
            remember(node(other)->hash, other);
        }
    }
    const size_t mask = by_hash_.size() - 1;
    size_t i = hash & mask;
    while (by_hash_[i] != kNoNode) i = (i + 1) & mask;
    by_hash_[i] = id;
}

MemoryGraph::Added MemoryGraph::add(const VectorView &x, uint64_t hash, uint64_t tid)
{
    const size_t bytes = codec_.code_size(x);
    code_scratch_.resize(bytes + codec_.second_size());
    codec_.encode(x, code_scratch_.data(), codec_.second_size() ? code_scratch_.data() + bytes : nullptr);
    if (uint32_t same = find_equal(hash, code_scratch_.data(), bytes); same != kNoNode) {
        more_tids_.emplace_back(same, tid);
        return {same, true};
    }
    const uint32_t id = size_;
    if ((id >> chunk_shift_) == chunks_.size())
        chunks_.push_back(static_cast<uint8_t *>(arena_.chunk(align_up(stride_ << chunk_shift_, 64))));
    Node *n = new (node(id)) Node{};
    n->hash = hash;
    n->tid = tid;
    n->level = static_cast<uint8_t>(levels_.next());
    uint8_t *at = reinterpret_cast<uint8_t *>(n) + code_offset_;
    if (codec_.code_size()) {
        std::memcpy(at, code_scratch_.data(), bytes);
    } else {
        auto *apart = static_cast<uint8_t *>(arena_.allocate(bytes));
        std::memcpy(apart, code_scratch_.data(), bytes);
        std::memcpy(at, &apart, sizeof(apart));
        n->code_bytes = static_cast<uint32_t>(bytes);
    }
    if (n->level > 0) n->upper = static_cast<Link *>(arena_.allocate(n->level * list_words(1) * sizeof(Link)));
    size_ = id + 1;
    remember(hash, id);
    return {id, false};
}

void MemoryGraph::load_list(Link *from, int level, LinkList *to) const
{
    const uint32_t word = from[0].load(std::memory_order_relaxed);
    const float *distance = distances_in(from, level);
    to->links.clear();
    for (uint32_t i = 0; i < count_of(word); ++i) to->links.push_back({distance[i], from[1 + i].load(std::memory_order_relaxed)});
    to->diverse = word >> 16;
}

// Every word is released by itself: who reads one of them sees that the version has changed, and the lists of the node it names.
void MemoryGraph::store_list(const LinkList &from, uint32_t id, int level) const
{
    Link *to = list(id, level);
    float *distance = distances_in(to, level);
    std::atomic<uint16_t> &version = node(id)->version;
    const uint16_t before = version.load(std::memory_order_relaxed);
    version.store(static_cast<uint16_t>(before + 1), std::memory_order_relaxed);
    for (uint32_t i = 0; i < from.links.size(); ++i) {
        to[1 + i].store(from.links[i].id, std::memory_order_release);
        distance[i] = from.links[i].distance;
    }
    to[0].store(static_cast<uint32_t>(from.links.size() | from.diverse << 16), std::memory_order_release);
    version.store(static_cast<uint16_t>(before + 2), std::memory_order_release);
}

// Without the lock: nobody can know the node yet.
void MemoryGraph::set_links(uint32_t id, int level, const Selected &to, Scratch &s)
{
    s.list.links = to.kept;
    s.list.diverse = to.diverse;
    store_list(s.list, id, level);
}

void MemoryGraph::add_link(uint32_t from, uint32_t to, float distance, int level, Scratch &s)
{
    Link *l = list(from, level);
    SpinLock lock(node(from)->lock);
    load_list(l, level, &s.list);
    s.ids.clear();
    for (const Candidate &c : s.list.links) {
        if (c.id == to) return;
        s.ids.push_back(c.id);
    }
    s.distance.resize(s.ids.size());
    MemoryView view(*this, code(to));
    view.distances(to, s.ids.data(), s.ids.size(), s.distance.data());
    admit(s.list, {distance, to}, s.distance.data(), max_links(level));
    store_list(s.list, from, level);
}

// A node has all of its own links, on every level, before the first one leads to it: whoever meets it meanwhile, on a level above,
// goes on from its lists. One that ended at lists still empty would know no other neighbour, and be lost with all that follow it.
void MemoryGraph::link(uint32_t id, unsigned worker, InFlight &in_flight, Scratch &s)
{
    in_flight.begin(worker, id);
    MemoryView view(*this, code(id));
    auto never = [] { return false; };
    const uint32_t first = entry_.load(std::memory_order_acquire);
    const int top = top_level_.load(std::memory_order_acquire), level = std::min<int>(node(id)->level, top);
    const uint32_t at = descend(view, s.search, first, top, level, never);
    std::vector<uint32_t> entries{at};
    s.above.clear();
    for (int l = level; l >= 0; --l) {
        enter(view, s.search, entries.data(), entries.size(), params_.ef_construction);
        search_layer(view, s.search, l, never);
        if (l == level && level < top && looks_astray(s.search.pool)) {
            descend_widely(view, s.search, first, top, level, entries, never);
            enter(view, s.search, entries.data(), entries.size(), params_.ef_construction);
            search_layer(view, s.search, l, never);
        }
        s.found.clear();
        entries.clear();
        for (const Pool::Entry &e : s.search.pool.entries()) {
            entries.push_back(e.id);
            s.found.push_back({e.distance, e.id});
        }
        add_from_above(s.found, s.above);
        select_neighbors(view, s.found, max_links(l), true, s.selected[static_cast<size_t>(l)]);
    }
    if (top > 0) {
        Selected &own = s.selected[0];
        LinkList list{std::move(own.kept), own.diverse};
        add_answers(id, {{}, 16, max_links(0) / 8, false}, list, s);
        own.kept = std::move(list.links);
        own.diverse = list.diverse;
    }
    for (int l = level; l >= 0; --l) set_links(id, l, s.selected[static_cast<size_t>(l)], s);
    for (int l = level; l >= 0; --l)
        for (const Candidate &c : s.selected[static_cast<size_t>(l)].kept) add_link(c.id, id, c.distance, l, s);
    in_flight.lists_stand(worker, &s.others);
    link_pairs(id, s);
    in_flight.end(worker);
}

bool MemoryGraph::has_room(uint32_t id, float distance, int level, Scratch &s) const
{
    Link *l = list(id, level);
    SpinLock lock(node(id)->lock);
    load_list(l, level, &s.list);
    return s.list.links.size() < max_links(level) ||
           std::any_of(s.list.links.begin(), s.list.links.end(), [&](const Candidate &c) { return distance < c.distance; });
}

// With those that were linked at the same moment, which no search of the node could meet. A full list takes one only if it is
// nearer than another link: the search would hardly have come upon it.
void MemoryGraph::link_pairs(uint32_t id, Scratch &s)
{
    if (s.others.empty()) return;
    MemoryView view(*this, code(id));
    s.to_others.resize(s.others.size());
    view.distances(id, s.others.data(), s.others.size(), s.to_others.data());
    for (size_t i = 0; i < s.others.size(); ++i)
        for (int l = std::min(node(id)->level, node(s.others[i])->level); l >= 0; --l) {
            if (has_room(id, s.to_others[i], l, s)) add_link(id, s.others[i], s.to_others[i], l, s);
            if (has_room(s.others[i], s.to_others[i], l, s)) add_link(s.others[i], id, s.to_others[i], l, s);
        }
}

bool MemoryGraph::link_all(unsigned threads, const std::function<bool(uint64_t)> &poll)
{
    if (size_ == 0) return true;
    uint32_t begin = 0;
    if (entry() == kNoNode) {
        entry_ = 0;
        top_level_ = node(0)->level;
        begin = 1;
    }
    std::mutex entry_mutex;
    threads = std::max(1u, threads);
    InFlight in_flight(threads);
    std::vector<Scratch> scratch(threads);
    return work_through(begin, size_, threads, poll, [&](uint32_t id, unsigned worker) {
        std::unique_lock lock(entry_mutex, std::defer_lock);
        // A node above the top becomes the entry; until it is linked no other may.
        if (node(id)->level > top_level_.load(std::memory_order_acquire)) lock.lock();
        link(id, worker, in_flight, scratch[worker]);
        if (lock.owns_lock() && node(id)->level > top_level_.load(std::memory_order_relaxed)) {
            entry_.store(id, std::memory_order_release);
            top_level_.store(node(id)->level, std::memory_order_release);
        }
    });
}

}  // namespace vkv::graph
