// One vacuum of an index, in the order in which it happens:
//   sweep      heap tuples that are gone leave their nodes; a node left with none is marked dead
//   leaks      what a crash left in no list and under no node is found and freed (vacuum_leaks.cpp)
//   barrier    every insertion that may not have seen the marks ends; what it wrote, on whatever page, is seen by the next steps
//              and a node that still is pending has been left so: if it is whole, it is treated as others from here on
//   entry      a dead entry point gives way to the highest live node that the sweep met
//   reach      live nodes that no path over live nodes leads to are attached: from here on the dead are not needed any more
//   repair     links to dead nodes are replaced by links to what those led to (vacuum_repair.cpp); the links by which the step
//              before came to each live node stay; then the nodes linked to are offered a link back, as after an insertion
//   reach      once more, after a barrier, for what insertions did meanwhile (vacuum_reach.cpp); links to dead nodes that are left
//   go barrier    every insertion ends that may still have dead nodes in hand; searches notice by the epoch in the meta page free
//   dead nodes become free slots; nothing leads to them any more
// A vacuum that is cancelled or killed in between leaves an index that answers as before, but for a row that it had cut off and not
// attached yet. The meta page says so from the first mark on: the next vacuum does all of this, whether rows are dead or not.
// Every loop calls pace() for each page or list that it reads: interrupts, and the delay that vacuum's costs ask for.
#pragma once

#include <bitset>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "pg/hnsw/linker.h"
#include "pg/hnsw/node_tids.h"

namespace vkv::hnsw {

constexpr size_t kMaxTidsItems = kItemRoom / (MAXALIGN(sizeof(TidsHeader) + 1) + sizeof(ItemIdData)) + 2;  // numbers begin at 1

class Vacuum {
public:
    Vacuum(Relation rel, IndexBulkDeleteResult *stats);
    void run(IndexBulkDeleteCallback callback, void *state);

private:
    struct Offer {
        uint32_t to;
        int level;
        uint32_t from;
        auto operator<=>(const Offer &) const = default;
    };

    // The items of a page of tids, by number.
    struct TidsItems {
        std::bitset<kMaxTidsItems> there, chained;  // on the page; led to by the chains that the sweep followed
    };

    struct SeenItem {
        PageKind kind;
        ItemPointerData at;
        uint32_t node;
    };

    // vacuum.cpp
    void sweep(IndexBulkDeleteCallback callback, void *state);
    void sweep_page(BlockNumber block, IndexBulkDeleteCallback callback, void *state);
    std::vector<uint64_t> judge(const std::vector<ItemPointerData> &tids, IndexBulkDeleteCallback callback, void *state);
    bool sweep_chain(uint32_t node, TidReader *chain, IndexBulkDeleteCallback callback, void *state);
    void tell_old_snapshots();
    void begin_changes(WritePages &pages);
    void end_changes();
    void remove_tids(BlockNumber block, const std::vector<uint64_t> &gone);
    void barrier();
    void choose_entry();
    void retire_entry();
    void announce_free();
    void free_nodes();
    void free_page(BlockNumber block);
    void free_parts(uint64_t hash, uint32_t node, const ItemPointerData &upper, const ItemPointerData &payload);
    // vacuum_leaks.cpp
    void note_leaks(const ReadPage &page, BlockNumber block);
    void note_items(const ReadPage &page, BlockNumber block, PageKind kind);
    bool has_room(const ReadPage &page, PageKind kind) const;
    TidsItems *tids_items_of(const ItemPointerData &at);
    void note_loose(PageKind kind, const ItemPointerData &at);
    size_t memory_for_notes() const { return static_cast<size_t>(maintenance_work_mem) * 1024 / 4; }
    void find_loose_tids();
    void check_items();
    void find_leaks();
    void free_items();
    bool belongs(PageKind kind, const ItemPointerData &item);
    void forget_stale_hashes();
    void free_pages();
    // vacuum_repair.cpp
    void repair_nodes();
    void repair_page(BlockNumber block);
    void repair_upper(BlockNumber block);
    void repair(uint32_t node, int level, std::vector<uint32_t> before);
    void remember_offers(uint32_t node, int level, const std::vector<uint32_t> &before, const std::vector<uint32_t> &after);
    std::vector<uint32_t> repaired_list(uint32_t node, int level, const std::vector<uint32_t> &list);
    bool wants_search(int level, double lost);
    const std::vector<uint32_t> &stand_ins_of(uint32_t node, int level);
    void forget_stand_ins();
    uint32_t other_way(uint32_t from, uint32_t to, const std::vector<uint32_t> &kept);
    void keep_paths(uint32_t node, const std::vector<uint32_t> &before, std::vector<uint32_t> *after);
    std::vector<uint32_t> choose(uint32_t node, const std::vector<uint8_t> &code, Scorer &scorer, size_t max,
                                 std::vector<graph::Candidate> &candidates);
    void score(const std::vector<uint32_t> &ids, std::vector<graph::Candidate> *out);
    void candidates_by_search(uint32_t node, int level, const std::vector<uint32_t> &known, std::vector<graph::Candidate> *out);
    void link_back();
    bool offer_links(uint32_t node, int level, const std::vector<uint32_t> &newcomers);
    // vacuum_reach.cpp
    void reach_all();
    void flood(uint32_t from, std::vector<bool> &reached);
    std::vector<bool> nodes_there();
    bool leads_on(uint32_t node);
    void attach(uint32_t node, uint32_t entry, const std::vector<bool> &reached);
    void attach_one(uint32_t node, uint32_t entry, const std::vector<bool> &reached, std::vector<uint32_t> *lost);
    void find_unfinished();
    void finish(uint32_t node);
    void strip_dead(uint32_t node, int level);

    bool dead(uint32_t node) const { return node < dead_.size() && dead_[node]; }
    void set_dead(uint32_t node);
    bool has_dead(const uint32_t *list, uint32_t n) const;
    bool pace();

    Index index_;
    const Shape &shape_;
    PageView view_;
    Linker linker_;
    Originals originals_;
    graph::SearchState search_;
    IndexBulkDeleteResult *stats_;
    BlockNumber blocks_ = 0;
    bool told_ = false;       // old snapshots, that rows go which they may see
    bool whole_;              // when this began, paths led to every row
    bool changing_ = false;   // the meta page says that a vacuum changes the graph
    bool some_cut_ = false;   // more than could be attached
    std::vector<bool> dead_;  // by node id
    uint64_t dead_count_ = 0;
    uint32_t best_node_ = kNoNode;  // the highest live node that the sweep met
    int best_level_ = -1;
    std::vector<uint32_t> pending_;            // live nodes that were being inserted when the sweep met them
    std::unordered_set<uint32_t> unfinished_;  // those of them that nobody is inserting any more
    uint32_t kept_entry_ = kNoNode;            // a dead entry point that nothing could take the place of
    uint64_t asked_by_chance_ = 0;
    std::vector<uint32_t> way_;  // by node id: the node that the last flood came from; kNoNode: not met. Empty if memory is short.
    std::vector<Detour> detours_;  // what the list that was repaired last gave up, and what leads there
    std::vector<Offer> offers_;
    std::unordered_map<uint64_t, std::vector<uint32_t>> stand_ins_;  // by node << 8 | level
    std::vector<SeenItem> seen_items_;
    std::vector<std::pair<PageKind, ItemPointerData>> loose_items_;
    std::unordered_map<BlockNumber, TidsItems> tids_items_;
    BlockNumber tids_share_ = 1, tids_turn_ = 0;  // of the pages of tids, those whose number leaves the rest tids_turn_
    std::vector<std::pair<PageKind, BlockNumber>> roomy_pages_, hash_pages_;
    std::vector<BlockNumber> blank_pages_;
    std::vector<uint32_t> stale_;  // live nodes that a flood saw links to the dead in
};

}  // namespace vkv::hnsw
