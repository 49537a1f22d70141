// The meta page of an index (drawn in format.h): how a new one begins, its checksums, what of it cannot be, and the model that it
// leads to. A damaged one is index_corrupted before anything is taken from it.
#pragma once

#include <span>
#include <vector>

#include "pg/hnsw/format.h"

namespace vkv::hnsw {

// How many dimensions an index takes.
uint32_t dim_limit(Scalar scalar);

MetaPage make_meta(const Shape &shape);
// Fills the checksums in, when all that never changes is known.
void seal_meta(MetaPage *meta, std::span<const uint8_t> model);
// What cannot be, of the parts that change; nothing if all can.
const char *fault_of_entry(const MetaPage &meta);
const char *fault_of_directory(const MetaPage &meta);
// A copy of the meta page. Raises index_corrupted for a damaged one, as far as what never changes shows it.
MetaPage read_meta(Relation rel, ForkNumber fork = MAIN_FORKNUM);
// Of a meta page that read_meta() took. Raises index_corrupted if it ends early or is not what was written.
std::vector<uint8_t> read_model(Relation rel, const MetaPage &meta);
void set_paths(Relation rel, Paths paths);

}  // namespace vkv::hnsw
