// aminsert: an equal vector's node gets one more heap tuple; a new vector is searched for, placed, and linked.
//
// A node is written whole, with its own links, before any other node links to it, and is marked pending until it has a link from
// one of them, or is the entry. Only then is it put into the hash table: no row joins a node that nothing may ever link to. A crash
// in between leaves a pending node that belongs to a transaction that never committed; vacuum removes it with its heap tuple, and
// the items that were to become its payload and upper lists as well (vacuum_leaks.cpp).

#include <cmath>
#include <cstring>
#include <optional>

#include "pg/hnsw/chance.h"
#include "pg/hnsw/hash_directory.h"
#include "pg/hnsw/hnsw.h"
#include "pg/hnsw/linker.h"
#include "pg/hnsw/meta_page.h"
#include "pg/hnsw/node_tids.h"

namespace vkv::hnsw {

namespace {

int random_level(uint32_t m, uint64_t hash)
{
    const double u = 1.0 - random_share(hash);  // (0, 1]
    return std::min(static_cast<int>(-std::log(u) / std::log(static_cast<double>(m))), graph::kMaxLevel);
}

// One statement's insertions into one index.
class Inserter {
public:
    explicit Inserter(Relation rel) : index_(rel), originals_(index_)
    {
        row_context_ = pg_call([] { return AllocSetContextCreate(CurrentMemoryContext, "hnsw insert", ALLOCSET_DEFAULT_SIZES); });
    }
    bool serves(Relation rel)
    {
        index_.set_rel(rel);
        return index_.same_storage();
    }

    void insert(Datum value, const ItemPointerData &tid, Relation heap)
    {
        heap_ = heap;
        MemoryContext old = MemoryContextSwitchTo(row_context_);
        VectorView x;
        if (view_value(index_.shape(), value, &x)) insert(x, tid);
        MemoryContextSwitchTo(old);
        MemoryContextReset(row_context_);
    }

private:
    void insert(const VectorView &x, const ItemPointerData &tid)
    {
        const Codec &codec = index_.codec();
        code_.resize(codec.code_size(x));
        second_.resize(codec.second_size());
        codec.encode(x, code_.data(), second_.empty() ? nullptr : second_.data());
        hash_ = hash_of(index_.shape(), x);
        std::optional<PageLock> lock;
        lock.emplace(index_.rel(), kUpdateLock, ShareLock);
        if (add_to_equal(tid)) return;
        const int level = random_level(index_.shape().m, hash_);
        Entry entry = index_.entry();
        if (entry.node == kNoNode || level > entry.level) {
            // The entry will change: alone, so that there is one entry and it is linked.
            lock.reset();
            lock.emplace(index_.rel(), kUpdateLock, ExclusiveLock);
            if (add_to_equal(tid)) return;  // inserted while this waited
            entry = index_.entry();
        }
        auto scorer = codec.linker(x);
        PageView view(index_, scorer.get());
        originals_.begin(view, heap_, row_context_, true);
        exact_scorer_.reset();
        const uint32_t node = add_node(view, *scorer, x, entry, level, tid);
        originals_.end();
        hash_insert(index_.rel(), hash_, node);
    }

    bool add_to_equal(const ItemPointerData &tid)
    {
        return hash_find(index_.rel(), hash_, [&](uint32_t node) { return add_tid(index_, node, hash_, code_, tid); });
    }

    // The new node can be found when this returns.
    uint32_t add_node(PageView &view, Scorer &scorer, const VectorView &x, const Entry &entry, int level,
                      const ItemPointerData &tid)
    {
        const Shape &s = index_.shape();
        Linker linker(index_, view);
        std::vector<std::vector<graph::Candidate>> chosen(static_cast<size_t>(level) + 1);
        int close_level = -1;  // from here down, rows are told apart by their original vectors
        if (entry.node != kNoNode) {
            uint32_t at = graph::descend(view, search_, entry.node, entry.level, level, poll_interrupts);
            std::vector<uint32_t> entries{at};
            std::vector<graph::Candidate> above;
            for (int l = std::min(level, entry.level); l >= 0; --l) {
                graph::enter(view, search_, entries.data(), entries.size(), s.ef_construction);
                graph::search_layer(view, search_, l, poll_interrupts);
                if (l == level && level < entry.level && graph::looks_astray(search_.pool)) {
                    graph::descend_widely(view, search_, entry.node, entry.level, level, entries, poll_interrupts);
                    graph::enter(view, search_, entries.data(), entries.size(), s.ef_construction);
                    graph::search_layer(view, search_, l, poll_interrupts);
                }
                if (close_level < 0 && are_too_close(view, scorer, l)) {
                    close_level = l;
                    see_originals(view, x, above);
                    linker.use(&originals_);
                }
                if (close_level >= 0) search_originals(view, l);
                std::vector<graph::Candidate> found;
                entries.clear();
                for (const auto &e : search_.pool.entries()) {
                    entries.push_back(e.id);
                    if (e.counts) found.push_back({e.distance, e.id});
                }
                if (entries.empty()) entries.push_back(at);
                graph::add_from_above(found, above);
                chosen[static_cast<size_t>(l)] = linker.choose(found, s.max_links(l));
            }
            if (entry.level > 0 && s.links_by_direction()) add_answers(view, x, entry, linker.diverse(), &chosen[0]);
        }
        if (level > entry.level && entry.node != kNoNode) keep_way_to(entry.node, &chosen[0]);
        const uint32_t node = write_node(chosen, tid);
        const ItemPointerData payload = write_payload(node);
        const ItemPointerData upper = level > 0 ? write_upper(node, chosen) : no_item();
        if (level > 0 || s.has_payload()) finish_node(node, upper, payload, true);  // before links lead to it
        // What is being inserted itself may never be linked to: its insertion may fail, after this one's transaction has ended.
        auto leads = [&](uint32_t id) { return id == entry.node || linker.leads_on(id); };
        bool linked = false;
        std::vector<uint32_t> links;
        for (const graph::Candidate &c : chosen[0]) links.push_back(c.id);
        linker.insert(node, entry.node, links);
        for (int l = level; l >= 0; --l) {
            const bool close = l <= close_level;
            linker.use(close ? &originals_ : nullptr);
            for (const graph::Candidate &c : chosen[static_cast<size_t>(l)]) {
                poll_interrupts();
                const bool added = linker.add(c.id, node, close ? exact_code_ : code_, l);
                linked = linked || (added && l == 0 && leads(c.id));
            }
        }
        Linker::Forced forced;
        for (size_t i = 0; !linked && i < chosen[0].size(); ++i)
            linked = leads(chosen[0][i].id) && linker.force(chosen[0][i].id, node, &forced);
        // Among nothing but tombstones: the entry, dead too, leads to it. Vacuum keeps it until there is another.
        if (!linked && entry.node != kNoNode) linked = linker.force(entry.node, node, &forced);
        // Again: a vacuum that began since the linker said so has taken the mark away.
        if (!forced.cut.empty()) set_paths(index_.rel(), Paths::cut);
        if (entry.node == kNoNode || level > entry.level) set_entry(node, level);
        finish_node(node, upper, payload, false);
        return node;
    }

    // Whether so many of what a search found are so near that codes cannot tell them from the new vector itself that they would not
    // all be linked to anyway.
    bool are_too_close(PageView &view, Scorer &scorer, int level) const
    {
        const auto &found = search_.pool.entries();
        const size_t kth = index_.shape().max_links(level) / 2;
        return originals_.serve() && found.size() >= kth &&
               is_too_close(view, scorer, code_, {found[kth - 1].distance, found[kth - 1].id});
    }

    void see_originals(PageView &view, const VectorView &x, std::vector<graph::Candidate> &above)
    {
        originals_.encode(x, &exact_code_);
        exact_scorer_ = originals_.codec().query_code(exact_code_.data());
        OriginalsView exact(originals_, view, *exact_scorer_);
        for (graph::Candidate &c : above) {
            bool counts;
            exact.score(&c.id, 1, &c.distance, &counts);
        }
        std::sort(above.begin(), above.end());
    }

    // Goes on from what has been found, by the distances of original vectors.
    void search_originals(PageView &view, int level)
    {
        std::vector<uint32_t> from;
        for (const auto &e : search_.pool.entries()) from.push_back(e.id);
        OriginalsView exact(originals_, view, *exact_scorer_);
        graph::enter(exact, search_, from.data(), from.size(), index_.shape().ef_construction);
        graph::search_layer(exact, search_, level, poll_interrupts);
    }

    // Links to some of what a query for the row itself finds, a quarter of a list, as a build makes them (core/graph/answers.cpp).
    void add_answers(PageView &view, const VectorView &x, const Entry &entry, size_t diverse, std::vector<graph::Candidate> *links)
    {
        constexpr size_t kAbove = 8, kWidth = 64;
        const auto query = index_.codec().query(x);
        Scorer *linker = view.scorer();
        view.set_scorer(query.get());
        std::vector<uint32_t> from;
        graph::descend_widely(view, search_, entry.node, entry.level, 0, from, poll_interrupts, kAbove);
        for (const graph::Candidate &c : *links) from.push_back(c.id);
        graph::enter(view, search_, from.data(), from.size(), kWidth);
        graph::search_layer(view, search_, 0, poll_interrupts);
        view.set_scorer(linker);
        const size_t max = index_.shape().max_links(0);
        std::vector<graph::Candidate> answers;
        for (const auto &e : search_.pool.entries()) {
            if (answers.size() == max / 4) break;
            const auto is_it = [&](const graph::Candidate &c) { return c.id == e.id; };
            if (e.counts && std::none_of(links->begin(), links->end(), is_it)) answers.push_back({0, e.id});
        }
        links->resize(std::min(links->size(), max - answers.size()));
        const size_t at = std::min(diverse, links->size());
        links->insert(links->begin() + static_cast<std::ptrdiff_t>(at), answers.begin(), answers.end());
    }

    // A new entry leads to the old one, and so to everything.
    void keep_way_to(uint32_t entry, std::vector<graph::Candidate> *links) const
    {
        for (const graph::Candidate &c : *links)
            if (c.id == entry) return;
        if (links->size() == index_.shape().max_links(0)) links->pop_back();
        links->push_back({graph::finite(INFINITY), entry});
    }

    ItemPointerData write_payload(uint32_t node)
    {
        const Shape &s = index_.shape();
        if (!s.has_payload()) return no_item();
        std::vector<uint8_t> bytes;
        if (s.apart) bytes = code_;
        bytes.insert(bytes.end(), second_.begin(), second_.end());
        // Last piece first: each knows where the next one is.
        ItemPointerData next = no_item();
        std::vector<uint8_t> item;
        for (size_t end = bytes.size(); end > 0;) {
            const size_t begin = (end - 1) / kMaxPayloadPerItem * kMaxPayloadPerItem;
            PayloadHeader h{next, static_cast<uint16_t>(end - begin), node, static_cast<uint32_t>(hash_)};
            item.resize(sizeof(h) + end - begin);
            std::memcpy(item.data(), &h, sizeof(h));
            std::memcpy(item.data() + sizeof(h), bytes.data() + begin, end - begin);
            next = put_item(index_.rel(), PageKind::payload, item.data(), item.size());
            end = begin;
        }
        return next;
    }

    uint32_t write_node(const std::vector<std::vector<graph::Candidate>> &chosen, const ItemPointerData &tid)
    {
        const Shape &s = index_.shape();
        uint32_t id = kNoNode;
        with_room(index_.rel(), PageKind::nodes, [&](char *page, BlockNumber block) {
            if ((static_cast<uint64_t>(block) + 1) * s.per_page >= kNoNode)
                throw Error(Errc::limit_exceeded, "index \"" + std::string(RelationGetRelationName(index_.rel())) + "\" is full");
            uint32_t slot = 0;
            while (slot < s.per_page && node_in(page, s, slot)->flags != 0) ++slot;
            if (slot == s.per_page) return false;
            id = s.node_at(block, slot);
            NodeHeader *n = node_in(page, s, id);
            std::memset(n, 0, s.node_size);
            n->hash = hash_;
            n->upper = n->more_tids = n->payload = no_item();
            n->flags = kNodeMark | kNodePending;
            n->level = static_cast<uint8_t>(chosen.size() - 1);
            n->links = static_cast<uint8_t>(chosen[0].size());
            for (size_t i = 0; i < chosen[0].size(); ++i) links_of(n, s)[i] = chosen[0][i].id;
            n->tids[0] = tid;
            n->tid_count = 1;
            if (!s.apart) std::memcpy(code_of(n), code_.data(), s.code_bytes);
            return true;
        });
        return id;
    }

    ItemPointerData write_upper(uint32_t node, const std::vector<std::vector<graph::Candidate>> &chosen)
    {
        const Shape &s = index_.shape();
        const int level = static_cast<int>(chosen.size()) - 1;
        std::vector<uint8_t> bytes(s.upper_size(level));
        auto *u = reinterpret_cast<UpperHeader *>(bytes.data());
        *u = {node, static_cast<uint32_t>(level)};
        for (int l = 1; l <= level; ++l) {
            const auto &c = chosen[static_cast<size_t>(l)];
            uint32_t *list = upper_list(u, s, l);
            list[0] = static_cast<uint32_t>(c.size());
            for (size_t i = 0; i < c.size(); ++i) list[1 + i] = c[i].id;
        }
        return put_item(index_.rel(), PageKind::upper, bytes.data(), bytes.size());
    }

    void finish_node(uint32_t node, const ItemPointerData &upper, const ItemPointerData &payload, bool pending)
    {
        const Shape &s = index_.shape();
        WritePages pages(index_.rel());
        NodeHeader *n = node_in(pages.lock(s.block_of(node), PageKind::nodes), s, node);
        n->upper = upper;
        n->payload = payload;
        if (!pending) n->flags &= static_cast<uint8_t>(~kNodePending);
        pages.commit();
    }

    void set_entry(uint32_t node, int level)
    {
        WritePages pages(index_.rel());
        MetaPage *meta = meta_of(pages.lock(kMetaBlock, PageKind::meta));
        meta->entry = node;
        meta->entry_level = level;
        pages.commit();
    }

    Index index_;
    MemoryContext row_context_;
    graph::SearchState search_;
    std::vector<uint8_t> code_, second_;
    uint64_t hash_ = 0;
    Relation heap_ = nullptr;
    Originals originals_;
    std::vector<uint8_t> exact_code_;
    std::unique_ptr<Scorer> exact_scorer_;
};

}  // namespace

bool insert(Relation index, Datum *values, bool *isnull, ItemPointer tid, Relation heap, IndexUniqueCheck, bool, IndexInfo *info)
{
    if (isnull[0]) return false;
    auto *inserter = static_cast<Inserter *>(info->ii_AmCache);
    if (!inserter || !inserter->serves(index)) {
        MemoryContext old = MemoryContextSwitchTo(info->ii_Context);
        inserter = own<Inserter>(info->ii_Context, index);
        MemoryContextSwitchTo(old);
        info->ii_AmCache = inserter;
    }
    inserter->insert(values[0], *tid, heap);
    return false;
}

}  // namespace vkv::hnsw
