// Distances between sparse vectors: one merge of the two ascending index lists, with what to add for each element as a function.
// Sums are floats, as those of the dense types are, so that the same values give the same overflow.

#include <cmath>

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

// term(x, y) of every dimension where a or b has an element; the absent one is 0.
template <typename Term>
float merge(const SparseVec *a, const SparseVec *b, Term term)
{
    const int32_t *ai = a->indices(), *bi = b->indices();
    const float *x = a->values(), *y = b->values();
    float sum = 0;
    int i = 0, j = 0;
    while (i < a->nnz && j < b->nnz) {
        if (ai[i] == bi[j]) {
            sum += term(x[i++], y[j++]);
        } else if (ai[i] < bi[j]) {
            sum += term(x[i++], 0.0f);
        } else {
            sum += term(0.0f, y[j++]);
        }
    }
    while (i < a->nnz) sum += term(x[i++], 0.0f);
    while (j < b->nnz) sum += term(0.0f, y[j++]);
    return sum;
}

float inner_product_of(const SparseVec *a, const SparseVec *b)
{
    const int32_t *ai = a->indices(), *bi = b->indices();
    float sum = 0;
    for (int i = 0, j = 0; i < a->nnz && j < b->nnz;) {
        if (ai[i] == bi[j]) sum += a->values()[i] * b->values()[j];
        int step = ai[i] <= bi[j];
        j += ai[i] >= bi[j];
        i += step;
    }
    return sum;
}

float squares(const SparseVec *v)
{
    float sum = 0;
    for (int i = 0; i < v->nnz; ++i) sum += v->values()[i] * v->values()[i];
    return sum;
}

double l2_squared(FunctionCallInfo fcinfo)
{
    Pair<SparseTraits> p(fcinfo);
    return static_cast<double>(merge(p.a, p.b, [](float x, float y) { return (x - y) * (x - y); }));
}

double inner_product(FunctionCallInfo fcinfo)
{
    Pair<SparseTraits> p(fcinfo);
    return static_cast<double>(inner_product_of(p.a, p.b));
}

}  // namespace

SQL_FUNCTION(sparsevec_l2_distance) { return Float8GetDatum(std::sqrt(l2_squared(fcinfo))); }

SQL_FUNCTION(sparsevec_l2_squared_distance) { return Float8GetDatum(l2_squared(fcinfo)); }

SQL_FUNCTION(sparsevec_inner_product) { return Float8GetDatum(inner_product(fcinfo)); }

SQL_FUNCTION(sparsevec_negative_inner_product) { return Float8GetDatum(-inner_product(fcinfo)); }

SQL_FUNCTION(sparsevec_cosine_distance)
{
    Pair<SparseTraits> p(fcinfo);
    double norms = std::sqrt(static_cast<double>(squares(p.a)) * static_cast<double>(squares(p.b)));
    return Float8GetDatum(1.0 - nearest::clamp_similarity(static_cast<double>(inner_product_of(p.a, p.b)) / norms));
}

SQL_FUNCTION(sparsevec_l1_distance)
{
    Pair<SparseTraits> p(fcinfo);
    return Float8GetDatum(static_cast<double>(merge(p.a, p.b, [](float x, float y) { return std::fabs(x - y); })));
}

}  // namespace vkv
