// Keeping what an index's meta page and model say, and what operator classes and columns say about an index that is about to be
// made. Also the values of the indexed column: as views, and hashed.

#include "pg/hnsw/index.h"

#include <array>
#include <cstring>
#include <string>

#include "core/codec/whiten.h"
#include "core/text/message.h"
#include "pg/hnsw/meta_page.h"
#include "pg/types/types.h"

namespace vkv::hnsw {

namespace {

// The distance of an operator class is told by the C function behind its first support function: the catalog of stock pgvector says
// the same.
struct DistanceRow {
    const char *symbol;
    Scalar scalar;
    Metric metric;
};
constexpr DistanceRow kDistances[] = {
    {"vector_l2_squared_distance", Scalar::f32, Metric::l2},
    {"vector_negative_inner_product", Scalar::f32, Metric::ip},
    {"l1_distance", Scalar::f32, Metric::l1},
    {"halfvec_l2_squared_distance", Scalar::f16, Metric::l2},
    {"halfvec_negative_inner_product", Scalar::f16, Metric::ip},
    {"halfvec_l1_distance", Scalar::f16, Metric::l1},
    {"sparsevec_l2_squared_distance", Scalar::sparse, Metric::l2},
    {"sparsevec_negative_inner_product", Scalar::sparse, Metric::ip},
    {"sparsevec_l1_distance", Scalar::sparse, Metric::l1},
    {"hamming_distance", Scalar::bit, Metric::hamming},
    {"jaccard_distance", Scalar::bit, Metric::jaccard},
};

// Bare PostgreSQL calls: no object with a destructor is alive.
const DistanceRow *find_distance(Oid proc)
{
    const DistanceRow *found = nullptr;
    HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(proc));
    if (!HeapTupleIsValid(tuple)) return nullptr;
    bool isnull;
    Datum source = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_prosrc, &isnull);
    if (!isnull) {
        const char *symbol = TextDatumGetCString(source);
        for (const DistanceRow &row : kDistances)
            if (std::strcmp(row.symbol, symbol) == 0) found = &row;
    }
    ReleaseSysCache(tuple);
    return found;
}

// rd_amcache. Its model is among kept_codecs or read again.
struct Cached {
    compat::Storage storage;
    Shape shape;
};

// The codecs of the indexes that this backend used last: a model of many means is too large to be copied for each search. They are
// known by the number that every index is born with, random or of its model, so one that is gone is never taken for another.
struct KeptCodec {
    compat::Storage storage{};
    uint64_t hash_seed = 0;
    std::shared_ptr<const Index::Loaded> loaded;
};
constinit std::array<KeptCodec, 8> kept_codecs;
constinit size_t next_kept = 0;

std::shared_ptr<const Index::Loaded> kept_codec(const compat::Storage &storage, const Shape &shape)
{
    for (const KeptCodec &k : kept_codecs)
        if (k.loaded && k.storage == storage && k.hash_seed == shape.hash_seed) return k.loaded;
    return nullptr;
}

void keep_codec(const compat::Storage &storage, const Shape &shape, const std::shared_ptr<const Index::Loaded> &loaded)
{
    for (KeptCodec &k : kept_codecs)
        if (k.loaded && k.storage == storage) k = {};  // of an index that has been there before
    kept_codecs[next_kept++ % kept_codecs.size()] = {storage, shape.hash_seed, loaded};
}

std::vector<uint8_t> untrained_model(const Column &c, CodecId codec, Linking linking)
{
    if (linking == Linking::direction) return DirectionTrainer(c.scalar, c.dim, [] {}).finish(codec);
    return make_trainer(codec, c.scalar, c.metric, c.dim)->finish();
}

// Without its schema: from PostgreSQL 17 on indexes are made under a search path that has none of ours, and format_type_be would
// name it.
const char *name_of_type(Oid type)
{
    HeapTuple tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
    if (!HeapTupleIsValid(tuple)) elog(ERROR, "cache lookup failed for type %u", type);
    const char *name = pstrdup(NameStr(reinterpret_cast<Form_pg_type>(GETSTRUCT(tuple))->typname));
    ReleaseSysCache(tuple);
    return name;
}

}  // namespace

Column column_of(Relation index)
{
    const DistanceRow *row = pg_call([&] { return find_distance(index_getprocid(index, 1, 1)); });
    if (!row)
        throw Error(Errc::not_supported, "access method \"hnsw\" does not know the distance function of the operator class",
                    "Use one of the operator classes of extension \"vector\".");
    Column c{row->scalar, row->metric, 0};
    if (c.metric == Metric::ip && OidIsValid(index_getprocid(index, 1, 2))) c.metric = Metric::cosine;
    // Of a domain, the type and length that it is over.
    const Form_pg_attribute column = TupleDescAttr(RelationGetDescr(index), 0);
    int32 dim = column->atttypmod;
    const Oid type = pg_call([&] { return getBaseTypeAndTypmod(column->atttypid, &dim); });
    if (type == VARBITOID)
        throw Error(Errc::not_supported, "type not supported for hnsw index",
                    "The length of bit varying is not fixed: index a cast to bit(n).");
    if (dim < 0)
        throw Error(Errc::invalid_parameter, "column does not have dimensions",
                    message("Give its type a length, or index a cast to one: ((%s::%s(3)) ...).",
                            index->rd_index->indkey.values[0] ? NameStr(column->attname) : "(expression)",
                            pg_call([&] { return name_of_type(type); })));
    const uint32_t max = dim_limit(c.scalar);
    if (static_cast<uint32_t>(dim) > max)
        throw Error(Errc::limit_exceeded, "column cannot have more than " + std::to_string(max) + " dimensions for hnsw index");
    c.dim = static_cast<uint32_t>(dim);
    return c;
}

std::unique_ptr<Codec> open_codec(const Column &c, CodecId id, Linking linking, std::span<const uint8_t> model)
{
    return linking == Linking::direction ? make_direction_codec(id, c.scalar, c.dim, model)
                                         : make_codec(id, c.scalar, c.metric, c.dim, model);
}

Shape make_shape(const Column &column, uint32_t m, uint32_t ef_construction, CodecId codec, const Codec &instance,
                 uint64_t hash_seed, uint32_t model_bytes, Linking linking)
{
    Shape s{};
    s.dim = column.dim;
    s.m = m;
    s.ef_construction = ef_construction;
    s.codec = codec;
    s.scalar = column.scalar;
    s.metric = column.metric;
    s.linking = linking;
    s.code_bytes = static_cast<uint32_t>(instance.code_size());
    s.second_bytes = static_cast<uint32_t>(instance.second_size());
    s.hash_seed = hash_seed;
    s.model_bytes = model_bytes;
    const size_t links = 2 * m * sizeof(uint32_t);
    const size_t code_end = (sizeof(NodeHeader) + s.code_bytes + alignof(uint32_t) - 1) / alignof(uint32_t) * alignof(uint32_t);
    s.apart = s.code_bytes == 0 || MAXALIGN(code_end + links) > kPageRoom;
    s.links_offset = static_cast<uint32_t>(s.apart ? sizeof(NodeHeader) : code_end);
    s.node_size = static_cast<uint32_t>(MAXALIGN(s.links_offset + links));
    s.per_page = static_cast<uint32_t>(kPageRoom / s.node_size);
    return s;
}

Index::Index(Relation rel) : rel_(rel), storage_(compat::relation_storage(rel))
{
    auto *cached = static_cast<Cached *>(rel->rd_amcache);
    if (cached && cached->storage == storage_) {
        shape_ = cached->shape;
        loaded_ = kept_codec(storage_, shape_);
        if (loaded_) return;
    }
    const MetaPage meta = read_meta(rel);
    const Column column{static_cast<Scalar>(meta.scalar), static_cast<Metric>(meta.metric), meta.dim};
    const auto id = static_cast<CodecId>(meta.codec);
    const auto linking = static_cast<Linking>(meta.linking);
    auto loaded = std::make_shared<Loaded>();
    loaded->model = meta.model_bytes > 0 ? read_model(rel, meta) : untrained_model(column, id, linking);
    try {
        loaded->codec = open_codec(column, id, linking, loaded->model);
    } catch (const Error &e) {
        if (e.code() != Errc::index_corrupted || meta.model_bytes == 0) throw;
        corrupted(rel, meta.model_first, e.message().c_str());
    }
    shape_ = make_shape(column, meta.m, meta.ef_construction, id, *loaded->codec, meta.hash_seed,
                        static_cast<uint32_t>(loaded->model.size()), linking);
    loaded_ = loaded;
    keep_codec(storage_, shape_, loaded_);
    pg_call([&] {
        auto *c = static_cast<Cached *>(MemoryContextAlloc(rel->rd_indexcxt, sizeof(Cached)));
        *c = {storage_, shape_};
        if (rel->rd_amcache) pfree(rel->rd_amcache);
        rel->rd_amcache = c;
    });
}

Entry Index::entry() const
{
    ReadPage page(rel_, kMetaBlock, PageKind::meta);
    const MetaPage *meta = meta_of(page.page());
    if (const char *fault = fault_of_entry(*meta)) corrupted(rel_, kMetaBlock, fault);
    return {meta->entry, meta->entry_level, meta->free_epoch, PageGetLSN(const_cast<char *>(page.page()))};
}

VectorView view_datum(Scalar scalar, Datum value)
{
    return pg_call([&] { return view_of(scalar, value); });
}

namespace {

// The words of the distance functions.
std::string different_dimensions(const Shape &shape, uint32_t other)
{
    const char *what = "different vector dimensions ";
    if (shape.scalar == Scalar::f16) what = "different halfvec dimensions ";
    if (shape.scalar == Scalar::sparse) what = "different sparsevec dimensions ";
    if (shape.scalar == Scalar::bit) what = "different bit lengths ";
    return what + std::to_string(shape.dim) + " and " + std::to_string(other);
}

}  // namespace

bool view_value(const Shape &shape, Datum value, VectorView *view)
{
    *view = view_datum(shape.scalar, value);
    if (view->dim != shape.dim) throw Error(Errc::data_exception, different_dimensions(shape, view->dim));
    if (shape.metric != Metric::cosine) return true;
    // A zero vector has no direction.
    if (shape.scalar == Scalar::sparse) return view->nnz > 0;
    if (shape.scalar == Scalar::f32) {
        for (uint32_t i = 0; i < view->dim; ++i)
            if (view->f32()[i] != 0) return true;
        return false;
    }
    for (uint32_t i = 0; i < view->dim; ++i)
        if ((view->f16()[i] & 0x7FFF) != 0) return true;
    return false;
}

uint64_t hash_of(const Shape &shape, const VectorView &x)
{
    auto hash = [&](const void *p, size_t bytes, uint64_t seed) {
        return hash_bytes_extended(static_cast<const unsigned char *>(p), static_cast<int>(bytes), seed);
    };
    switch (shape.scalar) {
        case Scalar::f32:
            return hash(x.data, x.dim * sizeof(float), shape.hash_seed);
        case Scalar::f16:
            return hash(x.data, x.dim * sizeof(uint16_t), shape.hash_seed);
        case Scalar::bit:
            return hash(x.data, x.bit_bytes(), shape.hash_seed);
        case Scalar::sparse:
            return hash(x.data, x.nnz * sizeof(float), hash(x.indices, x.nnz * sizeof(int32_t), shape.hash_seed));
    }
    return 0;
}

}  // namespace vkv::hnsw
