// hnsw_check: everything that must hold in an index between two statements.
#pragma once

#include <functional>
#include <string>
#include <unordered_set>
#include <vector>

#include "pg/hnsw/page_view.h"

namespace vkv::hnsw {

// report(block, slot or item offset, problem)
using Report = std::function<void(BlockNumber, int, const std::string &)>;

class Checker {
public:
    Checker(Relation heap, Relation index, Report report);
    // heap_all: also that every row of the table that has to be in the index is. searches: also that a query for each vector
    // comes to one of its rows, or to one that is as near.
    void run(bool heap_all, bool searches);

private:
    void read_pages();
    void read_nodes(const char *page, BlockNumber block);
    void read_upper_page(const char *page, BlockNumber block);
    void check_node(const NodeHeader *n, BlockNumber block, int slot);
    void settle_pending();
    void check_links();
    void check_list(uint32_t node, int level, const uint32_t *list, uint32_t n);
    void check_tids(const NodeHeader *n, BlockNumber block, int slot);
    void check_entry();
    void check_hash();
    void check_reach();
    void check_searches();
    void check_free_lists();
    void check_heap_tids();
    void check_heap_all();
    bool is_node(uint32_t id) const { return id < level_.size() && level_[id] >= 0; }
    void report_node(uint32_t id, const std::string &problem);

    Relation heap_;
    Index index_;
    const Shape &shape_;
    MetaPage meta_;
    Report report_;
    BlockNumber blocks_ = 0;
    Snapshot rows_ = nullptr;    // that have to be in the index
    std::vector<int8_t> level_;  // by node id; -1: no node
    std::vector<bool> dead_, pending_;
    std::vector<std::pair<uint64_t, uint32_t>> tids_;  // packed heap tid, node
    std::vector<std::pair<int, NodeHeader>> headers_;  // of the page that was read last, by slot
    std::unordered_set<uint32_t> upper_seen_;
};

}  // namespace vkv::hnsw
