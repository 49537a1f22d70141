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
constexpr uint32_t kBatch = 64;
constexpr size_t kAbove = 8;  // of a descent's pools
}  // namespace

// False where poll said stop.
bool MemoryGraph::find_hubs(std::vector<uint32_t> *hubs, const std::function<bool(uint64_t)> &poll) const
{
    const uint32_t asking = std::min(size_, kAsking);
    struct Asking {
        uint32_t self;
        std::unique_ptr<Scorer> scorer;
        std::vector<Candidate> best;
    };
    std::vector<Asking> all;
    for (uint32_t i = 0; i < asking; ++i) {
        const auto self = static_cast<uint32_t>(uint64_t{size_} * i / asking);
        all.push_back({self, codec_.asking_code(code(self)), {}});
    }
    std::vector<uint32_t> ids(kBatch), found;
    std::vector<float> distance(kBatch);
    const auto counts = std::make_unique<bool[]>(kBatch);
    for (uint32_t first = 0; first < size_; first += kBatch) {
        const uint32_t n = std::min(kBatch, size_ - first);
        std::iota(ids.begin(), ids.begin() + n, first);
        for (Asking &a : all) {
            if (poll(0)) return false;
            AskingView(*this, *a.scorer).score(ids.data(), n, distance.data(), counts.get());
            for (uint32_t j = 0; j < n; ++j) {
                const Candidate c{distance[j], ids[j]};
                if (c.id == a.self || (a.best.size() == kAnswers && !(c < a.best.back()))) continue;
                if (a.best.size() == kAnswers) a.best.pop_back();
                a.best.insert(std::upper_bound(a.best.begin(), a.best.end(), c), c);
            }
        }
    }
    for (const Asking &a : all)
        for (const Candidate &c : a.best) found.push_back(c.id);
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

// Takes a link out: of the few farthest fillers, or of all links where there is none, the farthest that another link of the list
// leads to; else the farthest.
void MemoryGraph::give_way(LinkList &list, Scratch &s) const
{
    auto &links = list.links;
    const size_t from = list.diverse < links.size() ? list.diverse : 0;
    std::sort(links.begin() + static_cast<std::ptrdiff_t>(from), links.end());
    s.ids.resize(max_links(0));
    const auto leads = [&](const Candidate &by, uint32_t to) {
        const auto end = s.ids.begin() + this->links(by.id, 0, s.ids.data());
        return by.id != to && std::find(s.ids.begin(), end, to) != end;
    };
    constexpr size_t kFew = 4;
    size_t out = links.size() - 1;
    for (size_t i = links.size(); i-- > std::max(from, links.size() - std::min(links.size(), kFew));)
        if (std::any_of(links.begin(), links.end(), [&](const Candidate &by) { return leads(by, links[i].id); })) {
            out = i;
            break;
        }
    links.erase(links.begin() + static_cast<std::ptrdiff_t>(out));
    list.diverse = std::min(list.diverse, links.size());
}

// Puts what a query for the node finds into its list on level 0.
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
    MemoryView linking(*this, code(id));
    auto &links = list.links;
    const auto link_to = [&](uint32_t other) {
        return std::find_if(links.begin(), links.end(), [&](const Candidate &c) { return c.id == other; });
    };
    std::vector<Candidate> answers;
    size_t seen = 0;
    for (const Pool::Entry &e : s.asking.pool.entries()) {
        if (seen == wanted.most) break;
        if (e.id == id) continue;
        const auto link = link_to(e.id);
        if (link == links.end() || wanted.counts_present) ++seen;
        if (link == links.end()) {
            answers.push_back({0, e.id});
            linking.distances(id, &e.id, 1, &answers.back().distance);
        } else if (wanted.counts_present) {  // among the answers, which stay
            answers.push_back(*link);
            if (static_cast<size_t>(link - links.begin()) < list.diverse) --list.diverse;
            links.erase(link);
        }
    }
    while (links.size() + answers.size() > max_links(0)) give_way(list, s);
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
    const size_t most = max_links(0) / 4;
    const Answers wanted{hubs, std::max<size_t>(32, most), most, true};
    return work_through(0, size_, threads, poll, [&](uint32_t id, unsigned worker) {
        Scratch &t = scratch[worker];
        load_list(list(id, 0), 0, &t.list);  // nobody else writes to it
        add_answers(id, wanted, t.list, t);
        store_list(t.list, id, 0);
    });
}

}  // namespace vkv::graph
