// A scan's candidates, nearest first: read again under a lock, and their distance found as exactly as the order of rows needs it.

#include <algorithm>

#include "pg/hnsw/scan.h"

namespace vkv::hnsw {

// Null: there is no heap to ask, or it may not be asked.
HeapReader *Scan::heap(IndexScanDesc scan)
{
    if (!heap_ && scan->heapRelation && !indifferent_)
        heap_.emplace(scan->heapRelation, scan->indexRelation, MemoryContextGetParent(context_));
    return heap_ && heap_->may_compute() ? &*heap_ : nullptr;
}

float Scan::error_of(PageView &view, const graph::Candidate &c)
{
    float error = 0;
    if (index_.codec().exact())
        error = scorer_->error(nullptr, c.distance, false);
    else if (!index_.shape().apart)
        view.peek(c.id, [&](const NodeHeader *, const uint8_t *code) { error = scorer_->error(code, c.distance, false); });
    else if (view.copy_code(c.id, &code_))
        error = scorer_->error(code_.data(), c.distance, false);
    return graph::finite(error);
}

// An exact codec's distance is as good as a refined one: what rounding leaves open is settled from the heap.
void Scan::add_pending(const graph::Candidate &c, float error)
{
    const bool rounded = index_.codec().exact() && error > 0;
    add_pending({c.distance - error, c.distance, c.id, rounded, c.distance + error});
}

void Scan::add_pending(const Pending &p)
{
    pending_.push_back(p);
    std::push_heap(pending_.begin(), pending_.end(), Pending::later);
}

// The nearest pending candidate, read for certain.
void Scan::settle(IndexScanDesc scan)
{
    const Pending p = take_pending();
    const Shape &s = index_.shape();
    tids_.clear();
    float distance = p.distance;
    NodeHeader header;
    {
        ReadPage page(index_.rel(), s.block_of(p.node), PageKind::nodes);
        const NodeHeader *n = node_in(page.page(), s, p.node);
        if (!node_answers(n)) return;
        header = *n;
        if (!s.apart) {
            const uint8_t *code = code_of(n);
            scorer_->score(&code, 1, &distance);
            distance = graph::finite(distance);
            if (distance != p.distance) {  // the slot was taken by another vector since it was scored
                add_pending(graph::Candidate{distance, p.node}, graph::finite(scorer_->error(code, distance, false)));
                return;
            }
            if (refines(p)) code_.assign(code, code + s.code_bytes);
        }
        if (!refines(p)) inline_tids(n, &tids_);
    }
    TidReader chain(p.node, &header);
    if (tids_.empty() && !chain.more() && !refines(p)) return;
    if (s.apart && !indifferent_) {
        PageView view(index_, scorer_.get());
        bool counts;
        view.score(&p.node, 1, &distance, &counts);
        if (!counts) return;
        if (distance != p.distance) {
            push_pending(view, {distance, p.node});
            return;
        }
    }
    if (refines(p)) {
        refine(p, PayloadOf(p.node, &header));
        return;
    }
    std::optional<double> exact = distance;
    const bool open = !index_.codec().exact() || p.refined;
    if (open && is_alone(p)) {
        exact = end_of(p);  // no nearer than it is: what comes late is measured against this
    } else if (open && !heap(scan)) {
        exact = (double{p.lower} + p.upper) / 2;  // what the codes say has to do
    } else if (open) {
        // The first of its tuples that the snapshot shows tells the distance.
        exact = heap_->distance(tids_, scan->xs_snapshot, s, query_);
        while (!exact && chain.more()) {
            poll_interrupts();
            tids_.clear();
            chain.read(index_, &tids_);
            exact = heap_->distance(tids_, scan->xs_snapshot, s, query_);
        }
    }
    if (!exact) return;
    settled_.push_back({*exact, arrivals_++, tids_, chain, 0});
    std::push_heap(settled_.begin(), settled_.end(), Settled::later);
}

Scan::Pending Scan::take_pending()
{
    std::pop_heap(pending_.begin(), pending_.end(), Pending::later);
    Pending p = pending_.back();
    pending_.pop_back();
    if (!p.refined || pending_.empty() || pending_.front().refined || pending_.front().lower > end_of(p)) return p;
    // What is in its way may not be once its own second level has been read, which is cheaper than the heap.
    std::pop_heap(pending_.begin(), pending_.end(), Pending::later);
    std::swap(p, pending_.back());
    std::push_heap(pending_.begin(), pending_.end(), Pending::later);
    return p;
}

// Puts the candidate back with the interval of its second level; not if the level is gone, with its node.
void Scan::refine(const Pending &p, const PayloadOf &payload)
{
    const Shape &s = index_.shape();
    const size_t skip = s.apart ? s.code_bytes : 0;
    if (!read_payload(index_.rel(), payload, skip + s.second_bytes, &payload_) || payload_.size() != skip + s.second_bytes) return;
    const uint8_t *code = s.apart ? payload_.data() : code_.data();
    const float distance = graph::finite(scorer_->rescore(code, payload_.data() + skip));
    const float error = graph::finite(scorer_->error(code, distance, true));
    add_pending({distance - error, p.distance, p.node, true, distance + error});
}

// Whether the place of a candidate, the first of those that are left, is certain without the heap. It is not beside rows that were
// returned already, nor as long as it has to wait for another batch, which may meet what is nearer.
bool Scan::is_alone(const Pending &p) const
{
    if (odd_ || p.lower < last_) return false;
    const double end = end_of(p);
    return (pending_.empty() || end < pending_.front().lower) && (settled_.empty() || end < settled_.front().distance) &&
           end < ahead_ - (ordered() ? turned_back_ : 0);
}

}  // namespace vkv::hnsw
