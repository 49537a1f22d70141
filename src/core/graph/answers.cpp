// Links by what queries find, for graphs whose nodes are linked by another distance than queries ask by (Codec::asking_code): the
// inner product, whose nearest are long vectors, while links are chosen by direction.
//
// Links chosen by one distance do not leave a group of rows that are near by it for what is near by the other. So some of level 0
// lead to what a query for the node itself finds: an eighth from the beginning, which leads searches out of groups while nodes are
// linked; and a quarter when all are. What came later could not be found before, and links that are far by the distance of lists
// are displaced. The few nodes that are among the nearest of nearly every query, as the longest are, may be neighbours of none: so
// they are sought among all nodes, and the last searches begin at them as well.
#include <algorithm>
#include <memory>
#include <numeric>

#include "core/graph/memory_graph.h"
#include "core/graph/memory_view.h"
#include "core/graph/workers.h"

namespace vkv::graph {

namespace {
constexpr uint32_t kAsking = 64;       // nodes that ask for hubs
constexpr size_t kAnswers = 8;         // that each gets
constexpr size_t kMostHubs = 32;       // those that the most get
constexpr uint32_t kFewestAsking = 2;  // less may be chance
constexpr uint32_t kBatch = 256;
constexpr size_t kAbove = 8;  // of a descent's pools
}  // namespace

// False where poll said stop.
bool MemoryGraph::find_hubs(std::vector<uint32_t> *hubs, const std::function<bool(uint64_t)> &poll) const
{
    const uint32_t asking = std::min(size_, kAsking);
    std::vector<uint32_t> ids(kBatch), found;
    std::vector<float> distance(kBatch);
    const auto counts = std::make_unique<bool[]>(kBatch);
    for (uint32_t i = 0; i < asking; ++i) {
        const auto self = static_cast<uint32_t>(uint64_t{size_} * i / asking);
        const auto scorer = codec_.asking_code(code(self));
        AskingView view(*this, *scorer);
        std::vector<Candidate> best;
        for (uint32_t first = 0; first < size_; first += kBatch) {
            if (first % (16 * kBatch) == 0 && poll(0)) return false;
            const uint32_t n = std::min(kBatch, size_ - first);
            std::iota(ids.begin(), ids.begin() + n, first);
            view.score(ids.data(), n, distance.data(), counts.get());
            for (uint32_t j = 0; j < n; ++j) {
                const Candidate c{distance[j], ids[j]};
                if (c.id == self || (best.size() == kAnswers && !(c < best.back()))) continue;
                if (best.size() == kAnswers) best.pop_back();
                best.insert(std::upper_bound(best.begin(), best.end(), c), c);
            }
        }
        for (const Candidate &c : best) found.push_back(c.id);
    }
    std::sort(found.begin(), found.end());
    std::vector<std::pair<uint32_t, uint32_t>> often;  // how many get it, which
    for (size_t i = 0, next; i < found.size(); i = next) {
        next = static_cast<size_t>(std::upper_bound(found.begin(), found.end(), found[i]) - found.begin());
        if (next - i >= kFewestAsking) often.emplace_back(static_cast<uint32_t>(next - i), found[i]);
    }
    std::sort(often.begin(), often.end(), std::greater<>());
    often.resize(std::min(often.size(), kMostHubs));
    hubs->clear();
    for (const auto &[count, id] : often) hubs->push_back(id);
    return true;
}

// Puts what a query for the node finds into its list on level 0, in the place of the farthest fillers, then of the farthest of all.
void MemoryGraph::add_answers(uint32_t id, const Answers &wanted, LinkList &list, Scratch &s) const
{
    const auto scorer = codec_.asking_code(code(id));
    if (!scorer) return;
    AskingView asking(*this, *scorer);
    auto never = [] { return false; };
    std::vector<uint32_t> entries;
    descend_widely(asking, s.asking, entry(), top_level_.load(std::memory_order_acquire), 0, entries, never, kAbove);
    entries.insert(entries.end(), wanted.hubs.begin(), wanted.hubs.end());
    enter(asking, s.asking, entries.data(), entries.size(), wanted.width);
    search_layer(asking, s.asking, 0, never);
    auto &links = list.links;
    std::vector<Candidate> answers;
    size_t seen = 0;
    for (const Pool::Entry &e : s.asking.pool.entries()) {
        if (seen == wanted.most) break;
        if (e.id == id) continue;
        const bool present = std::any_of(links.begin(), links.end(), [&](const Candidate &c) { return c.id == e.id; });
        if (!present || wanted.counts_present) ++seen;
        if (present) continue;
        Candidate found{0, e.id};
        MemoryView(*this, code(id)).distances(id, &e.id, 1, &found.distance);
        answers.push_back(found);
    }
    while (links.size() + answers.size() > max_links(0)) {
        const auto from = links.begin() + static_cast<std::ptrdiff_t>(list.diverse < links.size() ? list.diverse : 0);
        links.erase(std::max_element(from, links.end()));
        list.diverse = std::min(list.diverse, links.size());
    }
    links.insert(links.begin() + static_cast<std::ptrdiff_t>(list.diverse), answers.begin(), answers.end());
    list.diverse += answers.size();
}

bool MemoryGraph::link_answers(unsigned threads, const std::function<bool(uint64_t)> &poll)
{
    if (!asks_otherwise() || size_ <= max_links(0)) return true;
    std::vector<uint32_t> hubs;
    if (!find_hubs(&hubs, poll)) return false;
    threads = std::max(1u, threads);
    std::vector<Scratch> scratch(threads);
    const Answers wanted{hubs, 32, max_links(0) / 4, true};
    return work_through(0, size_, threads, poll, [&](uint32_t id, unsigned worker) {
        Scratch &t = scratch[worker];
        load_list(list(id, 0), 0, &t.list);  // nobody else writes to it
        add_answers(id, wanted, t.list, t);
        store_list(t.list, id, 0);
    });
}

}  // namespace vkv::graph
