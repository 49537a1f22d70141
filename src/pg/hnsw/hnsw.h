// The access method's face to the rest of the library: its settings and what PostgreSQL calls.
#pragma once

#include "pg/boundary/boundary.h"

namespace vkv {

// Defines the settings and the options of the access method.
void hnsw_init();

namespace hnsw {

enum class IterativeScan { off = 0, relaxed = 1, strict = 2 };

struct Settings {
    int ef_search = 40;
    int iterative_scan = static_cast<int>(IterativeScan::off);
    int max_scan_tuples = 20000;
    double scan_mem_multiplier = 1;
    int default_codec = -1;      // a CodecId, or -1: the best one for the type
    bool scan_past_ef = true;    // go on beyond ef_search rows when asked for more
    int page_map_memory = 8192;  // kB
    int evict_after = 0;         // for tests: see resident.h
    int build_seed = 0;          // for tests: see chance.h
};
extern Settings settings;

struct Options {
    int32 varlena_header;
    int m;
    int ef_construction;
    int codec;  // a CodecId, or -1: vectorkv.default_codec
};
constexpr int kDefaultM = 16, kMinM = 2, kMaxM = 100;
constexpr int kDefaultEfConstruction = 64, kMinEfConstruction = 4, kMaxEfConstruction = 1000;

// build.cpp
IndexBuildResult *build(Relation heap, Relation index, IndexInfo *info);
void build_empty(Relation index);
char *phase_name(int64 phase);
// insert.cpp
bool insert(Relation index, Datum *values, bool *isnull, ItemPointer tid, Relation heap, IndexUniqueCheck unique, bool unchanged,
            IndexInfo *info);
// scan.cpp
IndexScanDesc begin_scan(Relation index, int keys, int order_bys);
void rescan(IndexScanDesc scan, ScanKey keys, int key_count, ScanKey order_bys, int order_by_count);
bool get_tuple(IndexScanDesc scan, ScanDirection direction);
void end_scan(IndexScanDesc scan);
// vacuum.cpp
IndexBulkDeleteResult *bulk_delete(IndexVacuumInfo *info, IndexBulkDeleteResult *stats, IndexBulkDeleteCallback callback,
                                   void *state);
IndexBulkDeleteResult *vacuum_cleanup(IndexVacuumInfo *info, IndexBulkDeleteResult *stats);
// cost.cpp
void cost_estimate(PlannerInfo *root, IndexPath *path, double loop_count, Cost *startup, Cost *total, Selectivity *selectivity,
                   double *correlation, double *pages);

}  // namespace hnsw
}  // namespace vkv
