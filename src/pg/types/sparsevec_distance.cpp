// Distances between sparse vectors: one merge of the two ascending index lists, with what to add for each element as a function.
// Sums are doubles, as an index makes them, so that rows come in the operator's order; what leaves the range of single precision is
// infinite, as it is for the dense types.

#include <cfloat>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/text/limits.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/types/dense.h"

namespace vkv {
namespace {

struct SparseTraits {
    using Struct = SparseVec;
    static constexpr const char *kName = kSparsevecName;
};

double in_range(double sum)
{
    return std::fabs(sum) <= FLT_MAX || std::isnan(sum) ? sum : std::copysign(std::numeric_limits<double>::infinity(), sum);
}

// term(x, y) of every dimension where a or b has an element; the absent one is 0.
template <typename Term>
double merge(const SparseVec *a, const SparseVec *b, Term term)
{
    const int32_t *ai = a->indices(), *bi = b->indices();
    const float *x = a->values(), *y = b->values();
    double sum = 0;
    int i = 0, j = 0;
    while (i < a->nnz && j < b->nnz) {
        if (ai[i] == bi[j]) {
            sum += term(x[i++], y[j++]);
        } else if (ai[i] < bi[j]) {
            sum += term(x[i++], 0);
        } else {
            sum += term(0, y[j++]);
        }
    }
    while (i < a->nnz) sum += term(x[i++], 0);
    while (j < b->nnz) sum += term(0, y[j++]);
    return in_range(sum);
}

double inner_product_of(const SparseVec *a, const SparseVec *b)
{
    const int32_t *ai = a->indices(), *bi = b->indices();
    double sum = 0;
    for (int i = 0, j = 0; i < a->nnz && j < b->nnz;) {
        if (ai[i] == bi[j]) sum += static_cast<double>(a->values()[i]) * static_cast<double>(b->values()[j]);
        int step = ai[i] <= bi[j];
        j += ai[i] >= bi[j];
        i += step;
    }
    return in_range(sum);
}

double l2_squared(FunctionCallInfo fcinfo)
{
    Pair<SparseTraits> p(fcinfo);
    return merge(p.a, p.b, [](double x, double y) { return (x - y) * (x - y); });
}

double inner_product(FunctionCallInfo fcinfo)
{
    Pair<SparseTraits> p(fcinfo);
    return inner_product_of(p.a, p.b);
}

}  // namespace

SQL_FUNCTION(sparsevec_l2_distance) { return Float8GetDatum(std::sqrt(l2_squared(fcinfo))); }

SQL_FUNCTION(sparsevec_l2_squared_distance) { return Float8GetDatum(l2_squared(fcinfo)); }

SQL_FUNCTION(sparsevec_inner_product) { return Float8GetDatum(inner_product(fcinfo)); }

SQL_FUNCTION(sparsevec_negative_inner_product) { return Float8GetDatum(-inner_product(fcinfo)); }

SQL_FUNCTION(sparsevec_cosine_distance)
{
    Pair<SparseTraits> p(fcinfo);
    return Float8GetDatum(nearest::cosine_distance(nearest::sparse_cosine_parts(view_of(p.a), view_of(p.b))));
}

SQL_FUNCTION(sparsevec_l1_distance)
{
    Pair<SparseTraits> p(fcinfo);
    return Float8GetDatum(merge(p.a, p.b, [](double x, double y) { return std::fabs(x - y); }));
}

}  // namespace vkv
