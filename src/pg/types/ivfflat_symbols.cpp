// A database that was upgraded from pgvector still has its ivfflat access method and indexes, which look for these symbols.
// This library has no ivfflat. The access method can be opened, so that the tables of such indexes can be read and the indexes
// dropped; whatever would read or write an index of it says that it is not supported.

#include "core/error.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"

namespace vkv {
namespace {

[[noreturn]] void refuse()
{
    throw Error(Errc::not_supported, "access method \"ivfflat\" is not supported by this version of the vector extension",
                "Drop ivfflat indexes and create hnsw indexes in their place.");
}

IndexBuildResult *build(Relation, Relation, IndexInfo *) { refuse(); }
void build_empty(Relation) { refuse(); }
bool insert(Relation, Datum *, bool *, ItemPointer, Relation, IndexUniqueCheck, bool, IndexInfo *) { refuse(); }
IndexBulkDeleteResult *bulk_delete(IndexVacuumInfo *, IndexBulkDeleteResult *, IndexBulkDeleteCallback, void *) { refuse(); }
// A vacuum that removes nothing needs nothing of the index.
IndexBulkDeleteResult *vacuum_cleanup(IndexVacuumInfo *, IndexBulkDeleteResult *stats) { return stats; }
IndexScanDesc begin_scan(Relation, int, int) { refuse(); }
void rescan(IndexScanDesc, ScanKey, int, ScanKey, int) { refuse(); }
bool get_tuple(IndexScanDesc, ScanDirection) { refuse(); }
void end_scan(IndexScanDesc) {}
bool validate(Oid) { return true; }

bytea *options(Datum, bool check)
{
    if (check) refuse();
    return nullptr;  // of an index that is there
}

void cost_estimate(PlannerInfo *, IndexPath *path, double, Cost *startup, Cost *total, Selectivity *selectivity,
                   double *correlation, double *pages)
{
    *startup = *total = get_float8_infinity();
    *selectivity = 0;
    *correlation = 0;
    *pages = 0;
    compat::disable_path(&path->path);
}

}  // namespace

SQL_FUNCTION(ivfflathandler)
{
    IndexAmRoutine *am = makeNode(IndexAmRoutine);
    am->amsupport = 5;
    am->amcanorderbyop = true;
    am->amoptionalkey = true;
    am->amkeytype = InvalidOid;
    am->ambuild = entry<build>;
    am->ambuildempty = entry<build_empty>;
    am->aminsert = entry<insert>;
    am->ambulkdelete = entry<bulk_delete>;
    am->amvacuumcleanup = entry<vacuum_cleanup>;
    am->amcostestimate = entry<cost_estimate>;
    am->amoptions = entry<options>;
    am->amvalidate = entry<validate>;
    am->ambeginscan = entry<begin_scan>;
    am->amrescan = entry<rescan>;
    am->amgettuple = entry<get_tuple>;
    am->amendscan = entry<end_scan>;
    PG_RETURN_POINTER(am);
}

SQL_FUNCTION(ivfflat_halfvec_support) { refuse(); }

SQL_FUNCTION(ivfflat_bit_support) { refuse(); }

}  // namespace vkv
