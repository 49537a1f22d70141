// One vacuum of an index, in the order in which it happens:
//   sweep      heap tuples that are gone leave their nodes; a node left with none is marked dead
//   barrier    every insertion that may not have seen the marks ends
//   entry      a dead entry point gives way to the highest live node
//   reach      live nodes that no path over live nodes leads to are attached: from here on the dead are not needed any more
//   repair     links to dead nodes are replaced by links to what those led to (vacuum_repair.cpp); links between live nodes stay,
//   or can be made up for reach      once more, for what insertions did meanwhile barrier    every insertion ends that may still
//   have dead nodes in hand; searches notice by the epoch in the meta page free       dead nodes become free slots; nothing leads
//   to them any more
// A vacuum that is cancelled or killed in between leaves an index that answers as before; the next one goes on with what it finds
// marked.
#pragma once

#include <vector>

#include "pg/hnsw/linker.h"
#include "pg/hnsw/node_tids.h"

namespace vkv::hnsw {

class Vacuum {
public:
    Vacuum(Relation rel, IndexBulkDeleteResult *stats);
    void run(IndexBulkDeleteCallback callback, void *state);

private:
    // vacuum.cpp
    void sweep(IndexBulkDeleteCallback callback, void *state);
    void sweep_page(BlockNumber block, IndexBulkDeleteCallback callback, void *state);
    void remove_tids(BlockNumber block, const std::vector<uint64_t> &gone);
    bool remove_from_chain(uint32_t node, const std::vector<uint64_t> &gone);
    void barrier();
    void choose_entry();
    void find_highest();
    void announce_free();
    void free_nodes();
    void free_page(BlockNumber block);
    void free_parts(uint64_t hash, uint32_t node, const ItemPointerData &upper, const ItemPointerData &payload);
    // vacuum_repair.cpp
    void repair_nodes();
    void repair_page(BlockNumber block);
    void repair_upper(BlockNumber block);
    std::vector<uint32_t> repaired_list(uint32_t node, int level, const std::vector<uint32_t> &list);
    void keep_paths(const std::vector<uint32_t> &before, std::vector<uint32_t> *after);
    void score(const std::vector<uint32_t> &ids, std::vector<graph::Candidate> *out);
    void candidates_by_search(uint32_t node, int level, const std::vector<uint32_t> &known, std::vector<graph::Candidate> *out);
    void reach_all();
    void flood(uint32_t from, std::vector<bool> &reached);

    bool dead(uint32_t node) const { return node < dead_.size() && dead_[node]; }
    void set_dead(uint32_t node);
    bool has_dead(const uint32_t *list, uint32_t n) const;

    Index index_;
    const Shape &shape_;
    PageView view_;
    Linker linker_;
    graph::SearchState search_;
    IndexBulkDeleteResult *stats_;
    BlockNumber blocks_ = 0;
    std::vector<bool> dead_;  // by node id
    uint64_t dead_count_ = 0;
    uint32_t best_node_ = kNoNode;  // the highest live node
    int best_level_ = -1;
};

}  // namespace vkv::hnsw
