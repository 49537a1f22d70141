// Where the node of an equal vector is found without a search: an extendible hash table (Fagin et al. 1979) in pages of the index.
// A new version of a row whose vector did not change costs a look-up instead of a graph insertion, and duplicates share one node.
//
// The table only speeds things up: an entry may be missing (then an equal vector gets a node of its own) or stale (the node is
// checked).
#pragma once

#include <functional>
#include <unordered_set>
#include <vector>

#include "pg/hnsw/index.h"

namespace vkv::hnsw {

// Calls found(node) for each entry of the hash until it returns true.
bool hash_find(Relation rel, uint64_t hash, const std::function<bool(uint32_t node)> &found);
void hash_insert(Relation rel, uint64_t hash, uint32_t node);
void hash_erase(Relation rel, uint64_t hash, uint32_t node);
// The entries of a bucket's page, and the erasing of some of them, as far as they still are there. What there is to decide about an
// entry is decided in between, without a lock: the node that it names may lie anywhere if the page is damaged.
std::vector<BucketEntry> hash_entries(Relation rel, BlockNumber bucket);
void hash_erase(Relation rel, BlockNumber bucket, const std::vector<BucketEntry> &gone);
// The pages of the table that can be found.
std::unordered_set<BlockNumber> hash_blocks(Relation rel);

// Reports what the directory cannot lead to; what is missing from a bucket is no fault.
void hash_check(Relation rel, const std::function<void(BlockNumber, const std::string &problem)> &report);

// For a build: the pages of a table of these entries, appended by append(page) in order, the first at block `first`. Fills the meta
// page's part.
void hash_build(std::vector<BucketEntry> entries, BlockNumber first, MetaPage *meta,
                const std::function<void(const char *page)> &append);

}  // namespace vkv::hnsw
