// knn_exact: the nearest rows of a table to each of many queries, without an index, in one pass over the table for as many queries
// as work_mem holds.

#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

#include "core/nearest/nearest.h"
#include "core/text/message.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/nearest/by_helper.h"
#include "pg/nearest/rows.h"
#include "pg/nearest/target.h"
#include "pg/types/dense.h"

namespace vkv::nearest {

namespace {

constexpr size_t kMostNeighbors = 65536;         // k
constexpr size_t kLeastQueries = kPanelQueries;  // of one pass, whatever work_mem is
constexpr size_t kMostQueries = 16384;
constexpr double kSliceProducts = 1e8;  // between two looks for interrupts

// The queries as values of the column's type, [count][dim].
struct Queries {
    size_t count = 0, dim = 0;
    std::vector<float> f32;
    std::vector<uint16_t> f16;
    const void *at(size_t i) const { return f16.empty() ? static_cast<const void *>(&f32[i * dim]) : &f16[i * dim]; }
};

Metric metric_of(const char *name)
{
    if (strcmp(name, "l2") == 0) return Metric::l2;
    if (strcmp(name, "inner_product") == 0) return Metric::ip;
    if (strcmp(name, "cosine") == 0) return Metric::cosine;
    if (strcmp(name, "l1") == 0) return Metric::l1;
    throw Error(Errc::invalid_parameter, message("metric \"%s\" is not known", name),
                "Metrics are \"l2\", \"inner_product\", \"cosine\" and \"l1\".");
}

Queries read_queries(ArrayType *array, Oid vector_type, Scalar scalar)
{
    struct Elements {
        Datum *values;
        bool *nulls;
        int n;
    };
    const Elements e = pg_call([&] {
        Elements found;
        deconstruct_array(array, vector_type, -1, false, TYPALIGN_INT, &found.values, &found.nulls, &found.n);
        for (int i = 0; i < found.n; ++i)
            if (!found.nulls[i]) found.values[i] = PointerGetDatum(datum_vector(found.values[i]));
        return found;
    });
    Queries queries;
    queries.count = static_cast<size_t>(e.n);
    for (int i = 0; i < e.n; ++i) {
        if (e.nulls[i]) throw Error(Errc::null_not_allowed, message("query %d is null", i + 1));
        const auto *v = reinterpret_cast<const Vector *>(DatumGetPointer(e.values[i]));
        if (i == 0) queries.dim = static_cast<size_t>(v->dim);
        if (static_cast<size_t>(v->dim) != queries.dim)
            throw Error(Errc::data_exception, message("different vector dimensions %d and %zu", v->dim, queries.dim), {},
                        message("Query %d has %d dimensions, query 1 has %zu.", i + 1, v->dim, queries.dim));
        for (int d = 0; d < v->dim; ++d) {
            if (scalar == Scalar::f32)
                queries.f32.push_back(v->values()[d]);
            else
                queries.f16.push_back(to_element<HalfvecTraits>(v->values()[d]));
        }
    }
    return queries;
}

// The type vector of this function's extension, from its own declaration.
Oid own_vector_type(FunctionCallInfo fcinfo)
{
    Oid *types;
    int n;
    get_func_signature(fcinfo->flinfo->fn_oid, &types, &n);
    const Oid type = n == 5 ? get_element_type(types[2]) : InvalidOid;
    if (!OidIsValid(type)) elog(ERROR, "knn_exact must be declared with (regclass, name, vector[], integer, text)");
    return type;
}

class Results {
public:
    explicit Results(FunctionCallInfo fcinfo) : info_(reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo)) {}

    void put(size_t query, const std::vector<Neighbor> &nearest)
    {
        pg_call([&] {
            for (size_t rank = 0; rank < nearest.size(); ++rank) {
                const Neighbor &n = nearest[rank];
                ItemPointerData tid{};
                if (n.id != kNoTid) tid_of(n.id, &tid);
                Datum values[] = {Int32GetDatum(static_cast<int32>(query) + 1), Int32GetDatum(static_cast<int32>(rank) + 1),
                                  PointerGetDatum(&tid), Float8GetDatum(n.distance), ObjectIdGetDatum(n.source)};
                bool nulls[] = {false, false, n.id == kNoTid, false, !OidIsValid(n.source)};
                tuplestore_putvalues(info_->setResult, info_->setDesc, values, nulls);
            }
            CHECK_FOR_INTERRUPTS();
        });
    }

private:
    ReturnSetInfo *info_;
};

void search_here(Search *search, const Block &block, size_t dim, size_t from)
{
    const double row_products = static_cast<double>(search->queries()) * static_cast<double>(dim);
    const size_t slice = std::max(kPanelRows, static_cast<size_t>(kSliceProducts / row_products) / kPanelRows * kPanelRows);
    for (size_t at = from; at < block.rows(); at += slice) {
        search->add(block.values() + at * block.row_bytes(), block.ids() + at, std::min(slice, block.rows() - at));
        pg_call([] { CHECK_FOR_INTERRUPTS(); });
    }
}

void search_block(Search *search, ByHelper *helper, const Block &block, size_t dim)
{
    size_t at = 0;
    for (size_t n; at < block.rows(); at += n) {
        n = std::min(helper->most_rows(), block.rows() - at);
        if (!helper->add(block.values() + at * block.row_bytes(), block.ids() + at, n)) break;
    }
    if (at == block.rows()) return;
    using Clock = std::chrono::steady_clock;
    const auto begun = Clock::now();
    search_here(search, block, dim, at);
    const auto taken = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - begun).count();
    helper->took_here(block.rows() - at, static_cast<uint64_t>(taken));
}

// Queries of one pass: what is kept for each must fit work_mem, and 32 rows for all of them take some tens of milliseconds at most.
size_t queries_at_once(size_t k, size_t dim)
{
    const size_t each = k * sizeof(Neighbor) + 3 * dim * sizeof(float);
    return std::clamp(static_cast<size_t>(work_mem) * 1024 / each / kPanelQueries * kPanelQueries, kLeastQueries, kMostQueries);
}

Datum knn(FunctionCallInfo fcinfo)
{
    pg_call([&] { compat::init_materialized(fcinfo); });
    const char *metric_name = pg_call([&] { return text_to_cstring(PG_GETARG_TEXT_PP(4)); });
    const Metric metric = metric_of(metric_name);
    const int32 k = PG_GETARG_INT32(3);
    if (k < 1 || static_cast<size_t>(k) > kMostNeighbors)
        throw Error(Errc::invalid_parameter, message("k must be between 1 and %zu, not %d", kMostNeighbors, k));
    const Oid vector_type = pg_call([&] { return own_vector_type(fcinfo); });
    const Target target = pg_call([&] { return find_target(PG_GETARG_OID(0), NameStr(*PG_GETARG_NAME(1)), vector_type); });
    ArrayType *array = pg_call([&] { return PG_GETARG_ARRAYTYPE_P(2); });
    const Queries queries = read_queries(array, vector_type, target.scalar);
    Results results(fcinfo);
    Block block(target, queries.dim);
    pg_call([] { SPI_connect(); });
    const size_t step = queries_at_once(static_cast<size_t>(k), queries.dim);
    for (size_t first = 0; first < queries.count; first += step) {
        const size_t count = std::min(step, queries.count - first);
        Search search(
            {metric, target.scalar, static_cast<uint32_t>(queries.dim), static_cast<size_t>(k), queries.at(first), count});
        const std::unique_ptr<Rows> rows = open_rows(target);
        ByHelper helper(&search);
        for (; rows->next(&block); block.clear()) search_block(&search, &helper, block, queries.dim);
        rows->close();
        for (size_t q = 0; q < count; ++q) results.put(first + q, search.take(q));
    }
    pg_call([] { SPI_finish(); });
    return static_cast<Datum>(0);
}

}  // namespace

}  // namespace vkv::nearest

SQL_FUNCTION(knn_exact) { return vkv::nearest::knn(fcinfo); }
