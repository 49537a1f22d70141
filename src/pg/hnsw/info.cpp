// hnsw_info: what an index is made of.

#include "core/codec/whiten.h"
#include "pg/hnsw/inspect.h"
#include "pg/hnsw/node_tids.h"

namespace vkv::hnsw {

namespace {

struct Counts {
    int levels = 0;
    int64 nodes = 0, dead = 0, free_slots = 0, tuples = 0;
    int64 pages[kPageKinds] = {};
    int64 blocks = 0;
    int64 bytes(PageKind kind) const { return pages[static_cast<int>(kind)] * BLCKSZ; }
};

Counts count(const Index &index)
{
    const Shape &s = index.shape();
    Counts c;
    c.blocks = pg_call([&] { return RelationGetNumberOfBlocks(index.rel()); });
    std::vector<ItemPointerData> tids;
    std::vector<TidReader> chains;
    for (BlockNumber block = 0; block < c.blocks; ++block) {
        pg_call([] { CHECK_FOR_INTERRUPTS(); });
        tids.clear();
        chains.clear();
        ReadPage page(index.rel(), block);
        if (page.blank() || page.opaque()->page_id != kPageId || page.opaque()->kind >= kPageKinds) continue;
        ++c.pages[page.opaque()->kind];
        if (page.opaque()->kind != static_cast<uint8_t>(PageKind::nodes)) continue;
        for (uint32_t slot = 0; slot < s.per_page; ++slot) {
            const NodeHeader *n = node_in(page.page(), s, s.node_at(block, slot));
            if (!node_used(n)) {
                ++c.free_slots;
            } else if (n->flags & kNodeDead) {
                ++c.dead;
            } else {
                ++c.nodes;
                c.levels = std::max(c.levels, n->level + 1);
                inline_tids(n, &tids);
                if (is_item(n->more_tids)) chains.emplace_back(s.node_at(block, slot), n);
            }
        }
        page.close();
        for (TidReader &chain : chains)
            while (chain.read(index, &tids)) pg_call([] { CHECK_FOR_INTERRUPTS(); });
        c.tuples += static_cast<int64>(tids.size());
    }
    return c;
}

Datum info(FunctionCallInfo fcinfo)
{
    TupleDesc desc = pg_call([&] {
        TupleDesc d;
        if (get_call_result_type(fcinfo, nullptr, &d) != TYPEFUNC_COMPOSITE) elog(ERROR, "hnsw_info must return a row");
        return BlessTupleDesc(d);
    });
    OpenedIndex opened(PG_GETARG_OID(0), false);
    Index index(opened.index());
    const Counts c = count(index);
    const Shape &s = index.shape();
    const std::string codec(codec_name(s.codec));
    const char *linked_by = !s.links_by_direction()          ? "distance"
                            : s.linking == Linking::distance ? "direction"
                                                             : direction_name(index.model());
    return pg_call([&] {
        Datum values[] = {
            CStringGetTextDatum(codec.c_str()),
            CStringGetTextDatum(type_name(s.scalar)),
            CStringGetTextDatum(metric_name(s.metric)),
            Int32GetDatum(static_cast<int32>(s.dim)),
            Int32GetDatum(static_cast<int32>(s.m)),
            Int32GetDatum(static_cast<int32>(s.ef_construction)),
            Int32GetDatum(c.levels),
            Int64GetDatum(c.nodes),
            Int64GetDatum(c.dead),
            Int64GetDatum(c.free_slots),
            Int64GetDatum(c.tuples),
            Int32GetDatum(static_cast<int32>(s.node_size)),
            Int32GetDatum(static_cast<int32>(s.per_page)),
            Int64GetDatum(c.blocks * BLCKSZ),
            Int64GetDatum(c.bytes(PageKind::nodes)),
            Int64GetDatum(c.bytes(PageKind::upper)),
            Int64GetDatum(c.bytes(PageKind::tids)),
            Int64GetDatum(c.bytes(PageKind::payload)),
            Int64GetDatum(c.bytes(PageKind::hash_directory) + c.bytes(PageKind::hash_bucket)),
            Int64GetDatum(c.bytes(PageKind::model)),
            Int32GetDatum(static_cast<int32>(s.model_bytes)),
            CStringGetTextDatum(linked_by),
        };
        bool nulls[lengthof(values)] = {};
        return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
    });
}

}  // namespace

}  // namespace vkv::hnsw

SQL_FUNCTION(hnsw_info) { return vkv::hnsw::info(fcinfo); }
