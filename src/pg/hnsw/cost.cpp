// What a scan costs, as the planner is told. A search evaluates base + slope * ef distances, measured by real searches when the
// index was built and kept in the meta page; before that, and for an index that has grown a lot, an estimate takes their place.
// Each evaluation is charged as an index tuple and its share of the index's pages.

#include <algorithm>
#include <cmath>

#include "pg/hnsw/hnsw.h"
#include "pg/hnsw/index.h"
#include "pg/hnsw/meta_page.h"

namespace vkv::hnsw {

namespace {

// Distances evaluated by a search over n nodes.
double scored_by_search(const MetaPage &meta, double n, double ef)
{
    const double m = meta.m;
    double scored;
    if (meta.built_nodes > 0 && meta.scored_slope > 0) {
        // Searches grow with the logarithm of the graph.
        const double growth = std::log(std::max(n, 2.0)) / std::log(std::max(static_cast<double>(meta.built_nodes), 2.0));
        scored = (meta.scored_base + meta.scored_slope * ef) * std::max(growth, 1.0);
    } else {
        const double levels = std::log(std::max(n, 1.0)) / std::log(m);
        scored = levels * m + ef * m;  // about half of a list's 2 m links lead to nodes met before
    }
    return std::min(scored, n);
}

// The planner does not charge a sequential scan for what lies out of line, and so takes a table of long vectors for a small one. An
// index that is larger than its table tells that they are stored so. Then as little is charged here: no more pages than the table
// has, at the price of reading in sequence.
double out_of_line_discount(const IndexPath *path, const GenericCosts &costs, double share)
{
    const double table_pages = path->indexinfo->rel->pages;
    if (costs.numIndexPages <= table_pages) return 0;
    double random_page_cost, seq_page_cost;
    get_tablespace_page_costs(path->indexinfo->reltablespace, &random_page_cost, &seq_page_cost);
    const double pages = share * costs.numIndexPages;
    const double charged = std::min(share * costs.indexTotalCost, pages * random_page_cost);
    return std::max(charged - std::min(pages, table_pages) * seq_page_cost, 0.0);
}

}  // namespace

void cost_estimate(PlannerInfo *root, IndexPath *path, double loop_count, Cost *startup, Cost *total, Selectivity *selectivity,
                   double *correlation, double *pages)
{
    if (path->indexorderbys == NIL) {  // it can only order
        *startup = *total = get_float8_infinity();
        *selectivity = 0;
        *correlation = 0;
        *pages = 0;
        compat::disable_path(&path->path);
        return;
    }
    GenericCosts costs{};
    genericcostestimate(root, path, loop_count, &costs);
    MetaPage meta{};
    meta.m = kDefaultM;
    if (!path->indexinfo->hypothetical) {
        Relation index = index_open(path->indexinfo->indexoid, NoLock);
        meta = read_meta(index);
        index_close(index, NoLock);
    }
    const double n = std::max(path->indexinfo->tuples, 1.0);
    const double scored = scored_by_search(meta, n, settings.ef_search);
    // genericcostestimate charges for reading all of the index, which is what a scan to the end does.
    *startup = costs.indexTotalCost * std::min(scored / n, 1.0) - out_of_line_discount(path, costs, std::min(scored / n, 1.0));
    *total = std::max(costs.indexTotalCost, *startup);
    *selectivity = costs.indexSelectivity;
    *correlation = costs.indexCorrelation;
    *pages = costs.numIndexPages;
}

}  // namespace vkv::hnsw
