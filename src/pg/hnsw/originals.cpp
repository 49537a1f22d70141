// Reading nodes' vectors from the heap, and keeping them for as long as a statement's insertions are likely to ask for them again.

#include "pg/hnsw/originals.h"

#include <cmath>
#include <limits>

#include "core/codec/families.h"
#include "core/codec/whiten.h"

namespace vkv::hnsw {

namespace {

constexpr size_t kKeptBytes = size_t{4} << 20;

// Under cosine, the l2 distance of normalised vectors has digits where one minus an inner product has none.
std::unique_ptr<Codec> exact_codec(const Index &index)
{
    const Shape &s = index.shape();
    if (s.linking == Linking::direction)
        return make_direction_codec(CodecId::none, Scalar::f32, s.dim, direction_head(index.model(), s.dim));
    return make_codec(CodecId::none, Scalar::f32, s.metric == Metric::ip ? Metric::ip : Metric::l2, s.dim, {});
}

}  // namespace

void Originals::begin(PageView &view, Relation heap, MemoryContext context, bool detoasts)
{
    reader_.reset();  // an insertion that failed has left it
    view_ = &view;
    heap_ = heap;
    context_ = context;
    detoasts_ = detoasts;
    ++round_;
}

void Originals::end()
{
    if (reader_) reader_->close();
    reader_.reset();
    heap_ = nullptr;
}

const Codec &Originals::codec()
{
    if (!codec_) codec_ = exact_codec(index_);
    return *codec_;
}

void Originals::encode(const VectorView &x, std::vector<uint8_t> *code)
{
    const Shape &s = index_.shape();
    values_.resize(s.dim);
    copy_values(x, s.metric == Metric::cosine ? inverse_norm(x) : 1, values_.data());
    const VectorView floats{Scalar::f32, s.dim, values_.data(), nullptr, 0};
    code->resize(codec().code_size(floats));
    codec().encode(floats, code->data(), nullptr);
}

void Originals::make_room()
{
    if (kept_bytes_ <= kKeptBytes) return;
    kept_.clear();
    kept_bytes_ = 0;
}

const uint8_t *Originals::code(uint32_t node, bool *counts)
{
    NodeHeader header;
    *counts = false;
    if (!view_->peek(node, [&](const NodeHeader *n, const uint8_t *) { header = *n; })) return nullptr;
    *counts = node_answers(&header);
    Kept &kept = kept_[node];
    if (kept.code.empty() || kept.hash != header.hash || (kept.round != 0 && kept.round != round_)) {
        kept_bytes_ -= kept.code.size();
        load(header, node, &kept);
        kept_bytes_ += kept.code.size();
    }
    return kept.code.empty() ? nullptr : kept.code.data();
}

// An empty code if the node is gone.
void Originals::load(const NodeHeader &header, uint32_t node, Kept *kept)
{
    const Shape &s = index_.shape();
    if (!reader_) reader_.emplace(heap_, index_.rel(), context_);
    kept->hash = header.hash;
    kept->round = 0;
    for (int i = 0; i < std::min<int>(header.tid_count, kInlineTids); ++i) {
        const bool read = reader_->original(header.tids[i], s, detoasts_, [&](const VectorView &x) {
            if (x.dim != s.dim || hash_of(s, x) != header.hash) return false;
            encode(x, &kept->code);
            return true;
        });
        if (read) return;
    }
    kept->round = round_;
    std::vector<uint8_t> stored;
    std::vector<float> decoded(s.dim);
    kept->code.clear();
    if (!view_->copy_code(node, &stored)) return;
    index_.codec().decode(stored.data(), nullptr, decoded.data());
    encode({Scalar::f32, s.dim, decoded.data(), nullptr, 0}, &kept->code);
}

void OriginalsView::score(const uint32_t *ids, size_t n, float *distance, bool *counts)
{
    originals_.make_room();
    for (size_t i = 0; i < n; ++i) {
        const uint8_t *code = originals_.code(ids[i], &counts[i]);
        if (code) scorer_.score(&code, 1, &distance[i]);
        distance[i] = code ? graph::finite(distance[i]) : std::numeric_limits<float>::infinity();
    }
}

bool is_too_close(PageView &view, Scorer &scorer, const std::vector<uint8_t> &own_code, const graph::Candidate &candidate)
{
    const uint8_t *own = own_code.data();
    float own_distance;
    scorer.score(&own, 1, &own_distance);
    std::vector<uint8_t> code;
    return view.copy_code(candidate.id, &code) &&
           std::fabs(candidate.distance - own_distance) <= scorer.error(code.data(), candidate.distance, false);
}

}  // namespace vkv::hnsw
