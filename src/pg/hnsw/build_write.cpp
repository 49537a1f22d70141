// Pages in the order meta | nodes | upper lists | tids | payload | hash table | model. All addresses are known before the first
// page is written: nodes follow from their position, items from packing them in order. Nodes are placed breadth first, so that
// neighbours share pages.

#include "pg/hnsw/build_write.h"

#include <algorithm>
#include <cstring>

#include "pg/hnsw/hash_directory.h"
#include "pg/hnsw/meta_page.h"
#include "pg/hnsw/packer.h"

namespace vkv::hnsw {

namespace {

class Writer {
public:
    Writer(Relation index, const GraphToWrite &g) : index_(index), g_(g), graph_(g.graph), s_(g.shape) {}

    void run()
    {
        order_ = graph_.order([] { poll_interrupts(); });
        position_.resize(order_.size());
        for (uint32_t i = 0; i < order_.size(); ++i) {
            poll_interrupts();
            position_[order_[i]] = i;
        }
        sort_tids();
        plan();
        MetaPage meta = make_meta(s_);
        meta.built_nodes = order_.size();
        write_meta_place();
        write_nodes();
        write_upper();
        write_tids();
        write_payload();
        write_hash(&meta);
        write_model(&meta);
        finish(&meta);
    }

private:
    uint32_t disk_id(uint32_t node) const { return s_.per_page + position_[node]; }  // node pages start at block 1
    BlockNumber blocks_of_nodes() const { return static_cast<BlockNumber>((order_.size() + s_.per_page - 1) / s_.per_page); }

    void sort_tids()
    {
        tids_ = graph_.more_tids();
        std::stable_sort(tids_.begin(), tids_.end(), [this](const auto &a, const auto &b) {
            poll_interrupts();
            return position_[a.first] < position_[b.first];
        });
    }

    // The tids of a node beyond its first: [begin, end) in tids_. Nodes are asked for in order.
    std::pair<size_t, size_t> more_of(uint32_t node, size_t from) const
    {
        size_t to = from;
        while (to < tids_.size() && tids_[to].first == node) ++to;
        return {from, to};
    }

    static std::vector<size_t> pieces(size_t total, size_t max)
    {
        std::vector<size_t> sizes;
        for (; total > 0; total -= sizes.back()) sizes.push_back(std::min(total, max));
        return sizes;
    }

    size_t payload_of(uint32_t node) const
    {
        const size_t first = s_.apart ? (g_.code_in_payload ? g_.shape.code_bytes : graph_.code_size(node)) : 0;
        return first + s_.second_bytes;
    }

    void plan()
    {
        Packer upper(1 + blocks_of_nodes());
        upper_at_.assign(order_.size(), no_item());
        for (uint32_t i = 0; i < order_.size(); ++i) {
            poll_interrupts();
            if (int level = graph_.level(order_[i]); level > 0) upper_at_[i] = upper.next(s_.upper_size(level));
        }
        upper_end_ = upper.end();
        Packer tids(upper_end_);
        more_at_.clear();
        size_t from = 0;
        for (uint32_t node : order_) {
            poll_interrupts();
            auto [begin, end] = more_of(node, from);
            from = end;
            if (end - begin <= kInlineTids - 1) continue;
            for (size_t n : pieces(end - begin - (kInlineTids - 1), kMaxTidsPerItem))
                more_at_.push_back(tids.next(sizeof(TidsHeader) + n * sizeof(ItemPointerData)));
        }
        tids_end_ = tids.end();
        Packer payload(tids_end_);
        payload_at_.clear();
        if (s_.has_payload())
            for (uint32_t node : order_) {
                poll_interrupts();
                for (size_t n : pieces(payload_of(node), kMaxPayloadPerItem))
                    payload_at_.push_back(payload.next(sizeof(PayloadHeader) + n));
            }
        payload_end_ = payload.end();
    }

    void append(const char *page)
    {
        pg_call([&] {
            CHECK_FOR_INTERRUPTS();
            Buffer b = compat::extend_relation(index_, MAIN_FORKNUM);
            std::memcpy(BufferGetPage(b), page, BLCKSZ);
            MarkBufferDirty(b);
            UnlockReleaseBuffer(b);
        });
        ++written_;
    }

    void write_meta_place()
    {
        PGAlignedBlock page;
        init_page(page.data, PageKind::meta);
        append(page.data);
    }

    void write_nodes()
    {
        PGAlignedBlock page;
        std::vector<uint32_t> links(s_.max_links(0));
        size_t tid = 0, more = 0, payload = 0;
        for (uint32_t i = 0; i < order_.size(); ++i) {
            const uint32_t id = order_[i], slot = i % s_.per_page;
            if (slot == 0) init_page(page.data, PageKind::nodes);
            NodeHeader *n = node_in(page.data, s_, s_.per_page + i);
            n->hash = graph_.hash(id);
            n->upper = upper_at_[i];
            n->more_tids = no_item();
            n->payload = no_item();
            n->flags = kNodeMark;
            n->level = static_cast<uint8_t>(graph_.level(id));
            n->links = static_cast<uint8_t>(graph_.links(id, 0, links.data()));
            for (uint32_t l = 0; l < n->links; ++l) links_of(n, s_)[l] = disk_id(links[l]);
            n->tids[0] = unpack_tid(graph_.tid(id));
            n->tid_count = 1;
            auto [begin, end] = more_of(id, tid);
            tid = end;
            for (; begin < end && n->tid_count < kInlineTids; ++begin) n->tids[n->tid_count++] = unpack_tid(tids_[begin].second);
            if (begin < end) {
                n->more_tids = more_at_[more];
                more += pieces(end - begin, kMaxTidsPerItem).size();
            }
            if (s_.has_payload()) {
                n->payload = payload_at_[payload];
                payload += pieces(payload_of(id), kMaxPayloadPerItem).size();
            }
            if (!s_.apart) std::memcpy(code_of(n), g_.code_in_payload ? graph_.payload(id) : graph_.code(id), s_.code_bytes);
            if (slot + 1 == s_.per_page || i + 1 == order_.size()) {
                if (slot + 1 < s_.per_page) opaque_of(page.data)->flags |= kInFreeList;
                append(page.data);
            }
        }
        nodes_have_room_ = order_.size() % s_.per_page != 0;
    }

    // Writes items at their planned addresses, page by page.
    class Items {
    public:
        Items(Writer &w, PageKind kind, BlockNumber end) : w_(w), kind_(kind), end_(end) {}
        void add(const ItemPointerData &at, const std::vector<uint8_t> &bytes)
        {
            if (!open_ || ItemPointerGetBlockNumber(&at) != block_) {
                flush();
                init_page(page_.data, kind_);
                block_ = ItemPointerGetBlockNumber(&at);
                open_ = true;
            }
            const OffsetNumber o = PageAddItem(page_.data, reinterpret_cast<Item>(const_cast<uint8_t *>(bytes.data())),
                                               bytes.size(), InvalidOffsetNumber, false, false);
            if (o != ItemPointerGetOffsetNumber(&at))
                throw Error(Errc::internal, "an item of an hnsw index is not where it was planned");
        }
        void flush()
        {
            if (!open_) return;
            if (block_ + 1 == end_) opaque_of(page_.data)->flags |= kInFreeList;
            w_.append(page_.data);
            open_ = false;
        }

    private:
        Writer &w_;
        PageKind kind_;
        BlockNumber end_, block_ = InvalidBlockNumber;
        PGAlignedBlock page_;
        bool open_ = false;
    };

    void write_upper()
    {
        Items items(*this, PageKind::upper, upper_end_);
        std::vector<uint32_t> links(s_.max_links(0));
        for (uint32_t i = 0; i < order_.size(); ++i) {
            const int level = graph_.level(order_[i]);
            if (level == 0) continue;
            std::vector<uint8_t> bytes(s_.upper_size(level));
            auto *u = reinterpret_cast<UpperHeader *>(bytes.data());
            *u = {s_.per_page + i, static_cast<uint32_t>(level)};
            for (int l = 1; l <= level; ++l) {
                uint32_t *list = upper_list(u, s_, l);
                list[0] = graph_.links(order_[i], l, links.data());
                for (uint32_t k = 0; k < list[0]; ++k) list[1 + k] = disk_id(links[k]);
            }
            items.add(upper_at_[i], bytes);
        }
        items.flush();
    }

    void write_tids()
    {
        Items items(*this, PageKind::tids, tids_end_);
        size_t from = 0, item = 0;
        for (uint32_t node : order_) {
            poll_interrupts();
            auto [begin, end] = more_of(node, from);
            from = end;
            if (end - begin <= kInlineTids - 1) continue;
            begin += kInlineTids - 1;
            const auto sizes = pieces(end - begin, kMaxTidsPerItem);
            for (size_t p = 0; p < sizes.size(); ++p, ++item) {
                std::vector<uint8_t> bytes(sizeof(TidsHeader) + sizes[p] * sizeof(ItemPointerData));
                auto *h = reinterpret_cast<TidsHeader *>(bytes.data());
                h->next = p + 1 < sizes.size() ? more_at_[item + 1] : no_item();
                h->count = static_cast<uint16_t>(sizes[p]);
                h->node = disk_id(node);
                h->number = static_cast<uint32_t>(sizes.size() - p);
                auto *tid = reinterpret_cast<ItemPointerData *>(h + 1);
                for (size_t k = 0; k < sizes[p]; ++k) tid[k] = unpack_tid(tids_[begin++].second);
                items.add(more_at_[item], bytes);
            }
        }
        items.flush();
    }

    void write_payload()
    {
        if (!s_.has_payload()) return;
        Items items(*this, PageKind::payload, payload_end_);
        size_t item = 0;
        for (uint32_t node : order_) {
            const uint8_t *code = g_.code_in_payload ? graph_.payload(node) : graph_.code(node);
            // Kept apart, the code and the second level lie one after the other; else only the second level is here.
            const uint8_t *data = s_.apart ? code : code + s_.code_bytes;
            const auto sizes = pieces(payload_of(node), kMaxPayloadPerItem);
            for (size_t p = 0; p < sizes.size(); ++p, ++item) {
                std::vector<uint8_t> bytes(sizeof(PayloadHeader) + sizes[p]);
                auto *h = reinterpret_cast<PayloadHeader *>(bytes.data());
                h->next = p + 1 < sizes.size() ? payload_at_[item + 1] : no_item();
                h->bytes = static_cast<uint16_t>(sizes[p]);
                h->node = disk_id(node);
                h->hash = static_cast<uint32_t>(graph_.hash(node));
                std::memcpy(h + 1, data, sizes[p]);
                data += sizes[p];
                items.add(payload_at_[item], bytes);
            }
        }
        items.flush();
    }

    void write_hash(MetaPage *meta)
    {
        std::vector<BucketEntry> entries(order_.size());
        for (uint32_t i = 0; i < order_.size(); ++i) {
            poll_interrupts();
            entries[i] = {static_cast<uint32_t>(graph_.hash(order_[i])), s_.per_page + i};
        }
        if (!entries.empty()) hash_build(std::move(entries), written_, meta, [this](const char *page) { append(page); });
    }

    void write_model(MetaPage *meta)
    {
        const auto sizes = pieces(g_.model.size(), kPageRoom);
        meta->model_first = sizes.empty() ? InvalidBlockNumber : written_;
        size_t at = 0;
        for (size_t p = 0; p < sizes.size(); ++p) {
            PGAlignedBlock page;
            init_page(page.data, PageKind::model);
            std::memcpy(page.data + kPageBegin, g_.model.data() + at, sizes[p]);
            at += sizes[p];
            opaque_of(page.data)->next = p + 1 < sizes.size() ? written_ + 1 : InvalidBlockNumber;
            append(page.data);
        }
    }

    void finish(MetaPage *meta)
    {
        if (!order_.empty()) {
            meta->entry = disk_id(graph_.entry());
            meta->entry_level = graph_.level(graph_.entry());
            measure(meta);
        }
        seal_meta(meta, g_.model);
        auto last = [](BlockNumber end, BlockNumber begin) { return end > begin ? end - 1 : InvalidBlockNumber; };
        const BlockNumber nodes_end = 1 + blocks_of_nodes();
        meta->free_list[static_cast<int>(PageKind::nodes)] = nodes_have_room_ ? nodes_end - 1 : InvalidBlockNumber;
        meta->free_list[static_cast<int>(PageKind::upper)] = last(upper_end_, nodes_end);
        meta->free_list[static_cast<int>(PageKind::tids)] = last(tids_end_, upper_end_);
        meta->free_list[static_cast<int>(PageKind::payload)] = last(payload_end_, tids_end_);
        pg_call([&] {
            Buffer b = ReadBuffer(index_, kMetaBlock);
            LockBuffer(b, BUFFER_LOCK_EXCLUSIVE);
            *meta_of(static_cast<char *>(BufferGetPage(b))) = *meta;
            MarkBufferDirty(b);
            UnlockReleaseBuffer(b);
        });
    }

    // What a search costs, for the planner: a few searches at two widths, a line through them.
    void measure(MetaPage *meta)
    {
        constexpr uint32_t kProbes = 16, kNarrow = 40, kWide = 160;
        double narrow = 0, wide = 0;
        for (uint32_t i = 0; i < kProbes; ++i) {
            poll_interrupts();
            const auto node = static_cast<uint32_t>(static_cast<uint64_t>(graph_.size()) * i / kProbes);
            narrow += static_cast<double>(graph_.probe(node, kNarrow)) / kProbes;
            wide += static_cast<double>(graph_.probe(node, kWide)) / kProbes;
        }
        meta->scored_slope = static_cast<float>((wide - narrow) / (kWide - kNarrow));
        meta->scored_base = static_cast<float>(std::max(narrow - meta->scored_slope * kNarrow, 0.0));
    }

    Relation index_;
    const GraphToWrite &g_;
    const graph::MemoryGraph &graph_;
    const Shape &s_;
    std::vector<uint32_t> order_, position_;
    std::vector<std::pair<uint32_t, uint64_t>> tids_;
    std::vector<ItemPointerData> upper_at_, more_at_, payload_at_;
    BlockNumber upper_end_ = 0, tids_end_ = 0, payload_end_ = 0, written_ = 0;
    bool nodes_have_room_ = false;
};

}  // namespace

void write_index(Relation index, const GraphToWrite &graph)
{
    if (static_cast<uint64_t>(graph.graph.size()) + graph.shape.per_page >= kNoNode)
        throw Error(Errc::limit_exceeded, "an hnsw index cannot hold " + std::to_string(graph.graph.size()) + " different vectors");
    Writer(index, graph).run();
}

void write_empty_index(Relation index, ForkNumber fork, const MetaPage &meta)
{
    pg_call([&] {
        Buffer b = compat::extend_relation(index, fork);
        char *page = BufferGetPage(b);
        init_page(page, PageKind::meta);
        *meta_of(page) = meta;
        MarkBufferDirty(b);
        UnlockReleaseBuffer(b);
    });
    log_index(index, fork);
}

void log_index(Relation index, ForkNumber fork)
{
    if (!RelationNeedsWAL(index) && fork != INIT_FORKNUM) return;
    pg_call([&] {
        const BlockNumber blocks = RelationGetNumberOfBlocksInFork(index, fork);
        log_newpage_range(index, fork, 0, blocks, true);
    });
}

}  // namespace vkv::hnsw
