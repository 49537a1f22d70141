// Writing a finished graph as the pages of an index.
#pragma once

#include "core/graph/memory_graph.h"
#include "pg/hnsw/index.h"

namespace vkv::hnsw {

inline uint64_t pack_tid(const ItemPointerData &tid)
{
    return static_cast<uint64_t>(ItemPointerGetBlockNumberNoCheck(&tid)) << 16 | ItemPointerGetOffsetNumberNoCheck(&tid);
}
inline ItemPointerData unpack_tid(uint64_t packed)
{
    ItemPointerData tid;
    ItemPointerSet(&tid, static_cast<BlockNumber>(packed >> 16), static_cast<OffsetNumber>(packed & 0xFFFF));
    return tid;
}

struct GraphToWrite {
    const graph::MemoryGraph &graph;
    Shape shape;
    std::vector<uint8_t> model;
    bool code_in_payload;  // the graph was built on another codec; what is written lies in the nodes' payload
};

// Extends the (empty) index by all its pages, through shared buffers, without WAL.
void write_index(Relation index, const GraphToWrite &graph);
void write_empty_index(Relation index, ForkNumber fork, const MetaPage &meta);
// One pass of WAL over all pages, if the index is logged.
void log_index(Relation index, ForkNumber fork);

}  // namespace vkv::hnsw
