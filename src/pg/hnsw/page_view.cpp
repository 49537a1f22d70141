// Scoring nodes in place, a hop's neighbours at a time: addresses first, prefetch, then all codes, then the second look at their
// pages (resident.h); what was not there, or not for certain, is read one by one. Payloads and upper lists, which are rarer, are
// read under share locks; what is missing there although its address was read under one, too, is a node freed meanwhile, not an
// error.

#include "pg/hnsw/page_view.h"

#include <cstring>
#include <limits>

namespace vkv::hnsw {

namespace {

constexpr size_t kPrefetchBytes = 512;  // the processor fetches the rest of a longer code by itself
constexpr float kUnreadable = std::numeric_limits<float>::infinity();

}  // namespace

bool read_payload(Relation rel, const PayloadOf &of, size_t max, std::vector<uint8_t> *out)
{
    out->clear();
    for (ItemPointerData at = of.first; is_item(at) && out->size() < max;) {
        if (!block_exists(rel, ItemPointerGetBlockNumber(&at))) return false;
        ReadPage page(rel, ItemPointerGetBlockNumber(&at));
        if (!page_is(page, PageKind::payload)) return false;
        size_t bytes;
        const char *item = find_item(page.page(), at, sizeof(PayloadHeader), &bytes);
        if (!item) return false;
        PayloadHeader header;
        std::memcpy(&header, item, sizeof(header));
        if (header.bytes == 0 || sizeof(header) + header.bytes > bytes || header.node != of.node ||
            header.hash != static_cast<uint32_t>(of.hash))
            return false;
        const size_t take = std::min<size_t>(header.bytes, max - out->size());
        out->insert(out->end(), item + sizeof(header), item + sizeof(header) + take);
        at = header.next;
    }
    return true;
}

bool read_upper(const Index &index, const ItemPointerData &at, uint32_t node, int level, uint32_t *out, uint32_t *n)
{
    if (!is_item(at) || !block_exists(index.rel(), ItemPointerGetBlockNumber(&at))) return false;
    ReadPage page(index.rel(), ItemPointerGetBlockNumber(&at));
    if (!page_is(page, PageKind::upper)) return false;
    size_t bytes;
    const auto *upper = reinterpret_cast<const UpperHeader *>(find_item(page.page(), at, sizeof(UpperHeader), &bytes));
    const Shape &s = index.shape();
    if (!upper || upper->node != node || static_cast<int>(upper->level) < level ||
        s.upper_size(static_cast<int>(upper->level)) > bytes)
        return false;
    const uint32_t *list = upper_list(upper, s, level);
    *n = std::min(list[0], s.max_links(level));
    std::memcpy(out, list + 1, *n * sizeof(uint32_t));
    return true;
}

bool code_is_whole(const Shape &shape, const std::vector<uint8_t> &payload, size_t *bytes)
{
    if (shape.code_bytes > 0) {
        *bytes = shape.code_bytes;
        return payload.size() >= shape.code_bytes;
    }
    uint32_t nnz;
    if (payload.size() < sizeof(nnz)) return false;
    std::memcpy(&nnz, payload.data(), sizeof(nnz));
    *bytes = sizeof(nnz) + static_cast<size_t>(nnz) * (sizeof(int32_t) + sizeof(float));
    return nnz <= kMaxSparseNnz && payload.size() == *bytes;
}

PageView::PageView(const Index &index, Scorer *scorer) : index_(index), scorer_(scorer), resident_(Resident::of(index.rel()))
{
    const size_t n = max_links() + 1;
    looks_.resize(n);
    codes_.resize(n);
    where_.resize(n);
    found_.resize(n);
}

uint32_t PageView::neighbors(uint32_t id, int level, uint32_t *out)
{
    const Shape &s = index_.shape();
    uint32_t n = 0;
    if (level == 0) {
        peek(id, [&](const NodeHeader *node, const uint8_t *) {
            n = std::min<uint32_t>(node->links, s.max_links(0));
            std::memcpy(out, links_of(node, s), n * sizeof(uint32_t));
        });
        return n;
    }
    ItemPointerData upper = no_item();
    auto take = [&](const NodeHeader *node, const uint8_t *) { upper = node->level >= level ? node->upper : no_item(); };
    if (peek(id, take) && read_upper(index_, upper, id, level, out, &n)) return n;
    // The address may have been read in the middle of a change.
    return inspect(id, take) && read_upper(index_, upper, id, level, out, &n) ? n : 0;
}

const uint8_t *PageView::code_at(uint32_t id, const NodeHeader *node)
{
    const Shape &s = index_.shape();
    const size_t max = s.code_bytes ? s.code_bytes : s.most_payload() + 1;
    size_t bytes;
    if (!is_item(node->payload) || !read_payload(index_.rel(), {id, node}, max, &apart_) || !code_is_whole(s, apart_, &bytes))
        return nullptr;
    return apart_.data();
}

// The code of a node that keeps it apart; the header is read again under a lock if what it says is not there.
const uint8_t *PageView::code_apart(uint32_t id, NodeHeader *header)
{
    if (const uint8_t *code = code_at(id, header)) return code;
    return inspect(id, [&](const NodeHeader *node, const uint8_t *) { *header = *node; }) ? code_at(id, header) : nullptr;
}

void PageView::score_one(uint32_t id, float *distance, bool *counts)
{
    *distance = kUnreadable;
    *counts = false;
    NodeHeader copy;
    float found = 0;
    const bool apart = index_.shape().apart;
    const bool used = peek(id, [&](const NodeHeader *node, const uint8_t *code) {
        copy = *node;
        if (!apart) scorer_->score(&code, 1, &found);
    });
    if (!used) return;
    if (apart) {
        const uint8_t *code = code_apart(id, &copy);
        if (!code) return;
        scorer_->score(&code, 1, &found);
    }
    *distance = graph::finite(found);
    *counts = node_answers(&copy);
}

void PageView::score(const uint32_t *ids, size_t n, float *distance, bool *counts)
{
    const Shape &s = index_.shape();
    if (s.apart) {
        for (size_t i = 0; i < n; ++i) score_one(ids[i], &distance[i], &counts[i]);
        return;
    }
    if (looks_.size() < n) {
        looks_.resize(n);
        codes_.resize(n);
        where_.resize(n);
        found_.resize(n);
    }
    Relation rel = index_.rel();
    again_.clear();
    size_t readable = 0;
    resident_->begin();
    for (size_t i = 0; i < n; ++i) {
        if (!resident_->look(rel, s.block_of(ids[i]), &looks_[readable])) {
            again_.push_back(static_cast<uint32_t>(i));
            continue;
        }
        const NodeHeader *node = node_in(looks_[readable].page, s, ids[i]);
        for (size_t at = 0; at < sizeof(NodeHeader) + s.code_bytes && at < kPrefetchBytes; at += 64)
            __builtin_prefetch(reinterpret_cast<const char *>(node) + at);
        codes_[readable] = code_of(node);
        where_[readable++] = static_cast<uint32_t>(i);
    }
    scorer_->score(codes_.data(), readable, found_.data());
    for (size_t k = 0; k < readable; ++k) {
        const uint32_t i = where_[k];
        const auto *node = reinterpret_cast<const NodeHeader *>(codes_[k]) - 1;
        counts[i] = node_answers(node);
        distance[i] = node_used(node) ? graph::finite(found_[k]) : kUnreadable;
    }
    const bool in_time = resident_->in_time();
    for (size_t k = 0; k < readable; ++k) {
        const uint32_t i = where_[k];
        if (!in_time || distance[i] == kUnreadable || !Resident::same(rel, s.block_of(ids[i]), looks_[k])) again_.push_back(i);
    }
    for (uint32_t i : again_) score_one(ids[i], &distance[i], &counts[i]);
}

void PageView::prefetch_links(uint32_t id)
{
    const Shape &s = index_.shape();
    const char *page = resident_->guess(s.block_of(id));
    if (!page) return;
    const NodeHeader *node = node_in(page, s, id);
    __builtin_prefetch(node);
    const char *links = reinterpret_cast<const char *>(links_of(node, s));
    __builtin_prefetch(links);
    __builtin_prefetch(links + 64);
}

bool PageView::copy_code(uint32_t id, std::vector<uint8_t> *code)
{
    const Shape &s = index_.shape();
    NodeHeader copy;
    const bool used = peek(id, [&](const NodeHeader *node, const uint8_t *at) {
        copy = *node;
        if (at) code->assign(at, at + s.code_bytes);
    });
    if (!used || !s.apart) return used;
    if (!code_apart(id, &copy)) return false;
    *code = apart_;
    return true;
}

}  // namespace vkv::hnsw
