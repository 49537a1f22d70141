// The access method as PostgreSQL sees it: routine table, options, settings.

#include "core/codec/codec.h"
#include "pg/boundary/boundary.h"
#include "pg/hnsw/hnsw.h"
#include "pg/hnsw/resident.h"

namespace vkv {

namespace hnsw {

Settings settings;

namespace {

relopt_kind option_kind;

constexpr int kDefaultCodec = -1;

relopt_enum_elt_def codec_options[] = {
    {"none", static_cast<int>(CodecId::none)},
    {"lvq8", static_cast<int>(CodecId::lvq8)},
    {"lvq4", static_cast<int>(CodecId::lvq4)},
    {"lvq4x8", static_cast<int>(CodecId::lvq4x8)},
    {nullptr, 0},
};

constexpr config_enum_entry kCodecSettings[] = {
    {"auto", kDefaultCodec, false},
    {"none", static_cast<int>(CodecId::none), false},
    {"lvq8", static_cast<int>(CodecId::lvq8), false},
    {"lvq4", static_cast<int>(CodecId::lvq4), false},
    {"lvq4x8", static_cast<int>(CodecId::lvq4x8), false},
    {nullptr, 0, false},
};

constexpr config_enum_entry kIterativeScans[] = {
    {"off", static_cast<int>(IterativeScan::off), false},
    {"relaxed_order", static_cast<int>(IterativeScan::relaxed), false},
    {"strict_order", static_cast<int>(IterativeScan::strict), false},
    {nullptr, 0, false},
};

bytea *parse_options(Datum reloptions, bool validate)
{
    static const relopt_parse_elt kTable[] = {
        compat::relopt("m", RELOPT_TYPE_INT, offsetof(Options, m)),
        compat::relopt("ef_construction", RELOPT_TYPE_INT, offsetof(Options, ef_construction)),
        compat::relopt("codec", RELOPT_TYPE_ENUM, offsetof(Options, codec)),
    };
    return static_cast<bytea *>(build_reloptions(reloptions, validate, option_kind, sizeof(Options), kTable, lengthof(kTable)));
}

// Operator classes are checked when an index is built, by their distance function (index.cpp).
bool validate(Oid) { return true; }

void assign_evict_after(int value, void *) { Resident::looks_to_eviction = value; }

void define_options()
{
    option_kind = add_reloption_kind();
    add_int_reloption(option_kind, "m", "Links of a node on a level above the lowest, which has twice as many", kDefaultM, kMinM,
                      kMaxM, AccessExclusiveLock);
    add_int_reloption(option_kind, "ef_construction", "Candidates kept while a node is being linked", kDefaultEfConstruction,
                      kMinEfConstruction, kMaxEfConstruction, AccessExclusiveLock);
    add_enum_reloption(option_kind, "codec", "How vectors are compressed in the index", codec_options, kDefaultCodec,
                       "Valid values are \"none\", \"lvq8\", \"lvq4\" and \"lvq4x8\".", AccessExclusiveLock);
}

void define_settings()
{
    DefineCustomIntVariable("hnsw.ef_search", "Sets how many candidates a search keeps.", "Valid range is 1..1000.",
                            &settings.ef_search, 40, 1, 1000, PGC_USERSET, 0, nullptr, nullptr, nullptr);
    DefineCustomEnumVariable("hnsw.iterative_scan", "Sets whether and how a scan goes on when its candidates are used up.", nullptr,
                             &settings.iterative_scan, static_cast<int>(IterativeScan::off), kIterativeScans, PGC_USERSET, 0,
                             nullptr, nullptr, nullptr);
    DefineCustomIntVariable("hnsw.max_scan_tuples", "Sets how many tuples a scan that goes on may visit.", nullptr,
                            &settings.max_scan_tuples, 20000, 1, INT_MAX, PGC_USERSET, 0, nullptr, nullptr, nullptr);
    DefineCustomRealVariable("hnsw.scan_mem_multiplier", "Sets the multiple of work_mem that a scan that goes on may use.", nullptr,
                             &settings.scan_mem_multiplier, 1, 1, 1000, PGC_USERSET, 0, nullptr, nullptr, nullptr);
    MarkGUCPrefixReserved("hnsw");
    DefineCustomEnumVariable(
        "vectorkv.default_codec", "Sets the codec of new hnsw indexes that name none.",
        "\"auto\" takes the one that keeps the recall of \"none\". Types and distances without codecs keep \"none\".",
        &settings.default_codec, kDefaultCodec, kCodecSettings, PGC_USERSET, 0, nullptr, nullptr, nullptr);
    DefineCustomBoolVariable("vectorkv.scan_past_ef",
                             "Lets hnsw scans go on, in order, when more than hnsw.ef_search rows are wanted.",
                             "Off: a scan ends after hnsw.ef_search rows unless hnsw.iterative_scan is set.",
                             &settings.scan_past_ef, true, PGC_USERSET, 0, nullptr, nullptr, nullptr);
    DefineCustomIntVariable("vectorkv.page_map_memory",
                            "Sets how much memory a session may use to remember where pages of hnsw indexes lie.",
                            "Four bytes a page. Pages beyond that are read through the buffer manager.", &settings.page_map_memory,
                            8192, 1, INT_MAX / 1024, PGC_USERSET, GUC_UNIT_KB, nullptr, nullptr, nullptr);
    DefineCustomIntVariable("vectorkv.evict_after", "Evicts pages that hnsw searches are reading on purpose: one in so many.",
                            "For tests. Zero: none.", &settings.evict_after, 0, 0, INT_MAX, PGC_SUSET, GUC_NOT_IN_SAMPLE, nullptr,
                            entry<assign_evict_after>, nullptr);
    DefineCustomIntVariable("vectorkv.build_seed", "Makes hnsw indexes of the same rows in the same order the same.",
                            "For tests: with a seed that is known, vectors of equal hashes can be made. Zero: random.",
                            &settings.build_seed, 0, 0, INT_MAX, PGC_SUSET, GUC_NOT_IN_SAMPLE, nullptr, nullptr, nullptr);
}

}  // namespace

}  // namespace hnsw

void hnsw_init()
{
    hnsw::define_options();
    hnsw::define_settings();
}

}  // namespace vkv

SQL_FUNCTION(hnswhandler)
{
    using namespace vkv;
    IndexAmRoutine *am = makeNode(IndexAmRoutine);
    am->amstrategies = 0;
    am->amsupport = 3;
    am->amoptsprocnum = 0;
    am->amcanorder = false;
    am->amcanorderbyop = true;
    am->amcanbackward = false;
    am->amcanunique = false;
    am->amcanmulticol = false;
    am->amoptionalkey = true;
    am->amsearcharray = false;
    am->amsearchnulls = false;
    am->amstorage = false;
    am->amclusterable = false;
    am->ampredlocks = false;
    am->amcanparallel = false;
    am->amcaninclude = false;
    am->amusemaintenanceworkmem = true;
    am->amparallelvacuumoptions = VACUUM_OPTION_PARALLEL_BULKDEL;
    am->amkeytype = InvalidOid;
    am->ambuild = entry<hnsw::build>;
    am->ambuildempty = entry<hnsw::build_empty>;
    am->aminsert = entry<hnsw::insert>;
    am->ambulkdelete = entry<hnsw::bulk_delete>;
    am->amvacuumcleanup = entry<hnsw::vacuum_cleanup>;
    am->amcanreturn = nullptr;
    am->amcostestimate = entry<hnsw::cost_estimate>;
    am->amoptions = entry<hnsw::parse_options>;
    am->amproperty = nullptr;
    am->ambuildphasename = entry<hnsw::phase_name>;
    am->amvalidate = entry<hnsw::validate>;
    am->amadjustmembers = nullptr;
    am->ambeginscan = entry<hnsw::begin_scan>;
    am->amrescan = entry<hnsw::rescan>;
    am->amgettuple = entry<hnsw::get_tuple>;
    am->amgetbitmap = nullptr;
    am->amendscan = entry<hnsw::end_scan>;
    am->ammarkpos = nullptr;
    am->amrestrpos = nullptr;
    am->amestimateparallelscan = nullptr;
    am->aminitparallelscan = nullptr;
    am->amparallelrescan = nullptr;
    PG_RETURN_POINTER(am);
}

// Third support function of the operator classes: what pgvector keeps a type's limits and routines in. Here core knows the types;
// the functions stay, for catalogs that name them.
namespace {
Datum type_support()
{
    using namespace vkv;
    throw Error(Errc::not_supported, "support functions of hnsw operator classes cannot be called");
}
}  // namespace

SQL_FUNCTION(hnsw_halfvec_support) { return type_support(); }
SQL_FUNCTION(hnsw_bit_support) { return type_support(); }
SQL_FUNCTION(hnsw_sparsevec_support) { return type_support(); }
