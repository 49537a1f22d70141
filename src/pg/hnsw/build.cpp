// CREATE INDEX: sample -> train the codec -> read the table into a graph in memory -> link it with threads -> write pages -> log
// them.
//
// The leader alone talks to PostgreSQL. The graph lives in plain memory within maintenance_work_mem and beyond that in a mapped
// temporary file, so that a build that is short of memory takes the same steps. Nothing of the index is on disk before the graph is
// whole, and PostgreSQL removes the file of an index whose build did not end.

#include <optional>

#include "core/codec/whiten.h"
#include "core/graph/memory_graph.h"
#include "pg/hnsw/build_write.h"
#include "pg/hnsw/chance.h"
#include "pg/hnsw/hnsw.h"
#include "pg/hnsw/index.h"
#include "pg/hnsw/meta_page.h"
#include "pg/hnsw/spill_file.h"

namespace vkv::hnsw {

namespace {

enum Phase : int64 {
    kSampling = PROGRESS_CREATEIDX_SUBPHASE_INITIALIZE + 1,
    kLoading,
    kLinking,
    kAnswering,
    kWriting,
    kLogging,
};

// Of the table, in evenly spaced runs: the mean of some thousand rows is the mean, but rows loaded group by group are to be seen of
// each group.
constexpr BlockNumber kSampleBlocks = 2048;
constexpr BlockNumber kSampleRun = 2;

void set_phase(Phase phase) { pgstat_progress_update_param(PROGRESS_CREATEIDX_SUBPHASE, phase); }
void set_tuples(int64 done, int64 total)
{
    pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_TOTAL, total);
    pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_DONE, done);
}

Options options_of(Relation index)
{
    if (auto *o = reinterpret_cast<Options *>(index->rd_options)) return *o;
    return Options{0, kDefaultM, kDefaultEfConstruction, -1};
}

CodecId choose_codec(const Options &options, const Column &column)
{
    if (options.codec >= 0) {
        const auto id = static_cast<CodecId>(options.codec);
        if (!codec_supports(id, column.scalar, column.metric))
            throw Error(Errc::not_supported, "codec \"" + std::string(codec_name(id)) + "\" is not defined for this operator class",
                        "Codecs other than \"none\" compress vector and halfvec under L2, inner product and cosine distance.");
        return id;
    }
    const auto preferred = settings.default_codec >= 0 ? static_cast<CodecId>(settings.default_codec) : CodecId::lvq8;
    return codec_supports(preferred, column.scalar, column.metric) ? preferred : CodecId::none;
}

class Build {
public:
    Build(Relation heap, Relation index, IndexInfo *info) : heap_(heap), index_(index), info_(info)
    {
        const Options options = options_of(index);
        column_ = column_of(index);
        m_ = static_cast<uint32_t>(options.m);
        ef_construction_ = static_cast<uint32_t>(options.ef_construction);
        if (ef_construction_ < 2 * m_)
            throw Error(Errc::invalid_parameter, "ef_construction must be greater than or equal to 2 * m");
        codec_id_ = choose_codec(options, column_);
        // A graph linked by 4-bit codes is a worse graph: it is built on 8 bits, whatever is stored.
        graph_codec_id_ = codec_id_ == CodecId::lvq4 || codec_id_ == CodecId::lvq4x8 ? CodecId::lvq8 : codec_id_;
        context_ = pg_call([] { return AllocSetContextCreate(CurrentMemoryContext, "hnsw build", ALLOCSET_DEFAULT_SIZES); });
    }

    void write_empty(ForkNumber fork)
    {
        make_trainers();
        finish_models();  // of no sample
        Shape shape = make_shape(column_, m_, ef_construction_, codec_id_, *codec_, hash_seed_, 0, linking_);
        MetaPage meta = make_meta(shape);
        seal_meta(&meta, {});
        write_empty_index(index_, fork, meta);
    }

    void run()
    {
        train();
        load();
        link();
        pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_DONE, 0);
        set_phase(kWriting);
        write();
        graph_.reset();
        spill_.close();
    }

    double heap_tuples() const { return heap_tuples_; }
    double index_tuples() const { return index_tuples_; }

private:
    // One row of the table as both scans see it. False: not indexed.
    template <class Use>
    void with_value(Datum value, bool isnull, Use &&use)
    {
        if (isnull) return;
        MemoryContext old = MemoryContextSwitchTo(context_);
        VectorView view;
        if (view_value(shape_hint_, value, &view)) use(view);
        MemoryContextSwitchTo(old);
        MemoryContextReset(context_);
    }

    static void sample_row(Relation, ItemPointer, Datum *values, bool *isnull, bool, void *state)
    {
        auto *b = static_cast<Build *>(state);
        b->with_value(values[0], isnull[0], [b](const VectorView &x) {
            b->trainer_->add(x);
            if (b->direction_trainer_) b->direction_trainer_->add(x);
            if (b->graph_trainer_) b->graph_trainer_->add(x);
        });
    }

    static void load_row(Relation, ItemPointer tid, Datum *values, bool *isnull, bool, void *state)
    {
        auto *b = static_cast<Build *>(state);
        b->with_value(values[0], isnull[0], [b, tid](const VectorView &x) { b->add(x, *tid); });
    }

    void add(const VectorView &x, const ItemPointerData &tid)
    {
        const uint64_t packed = pack_tid(tid);
        const auto added = graph_->add(x, hash_of(shape_hint_, x), packed);
        if (!added.duplicate && graph_->payload_bytes() > 0) {
            uint8_t *payload = graph_->payload(added.id);
            codec_->encode(x, payload, codec_->second_size() ? payload + codec_->code_size() : nullptr);
        }
        ++index_tuples_;
        if (spill_at_ < 0 && arena_->spilled()) spill_at_ = static_cast<int64>(index_tuples_) - 1;
        if (static_cast<int64>(index_tuples_) % 256 == 0)
            pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_DONE, static_cast<int64>(index_tuples_));
    }

    void make_trainers()
    {
        trainer_ = make_trainer(codec_id_, column_.scalar, column_.metric, column_.dim);
        if (graph_codec_id_ != codec_id_)
            graph_trainer_ = make_trainer(graph_codec_id_, column_.scalar, column_.metric, column_.dim);
        if (direction_supports(codec_id_, column_.scalar, column_.metric))
            direction_trainer_.emplace(column_.scalar, column_.dim, [] { pg_call([] { CHECK_FOR_INTERRUPTS(); }); });
    }

    void finish_models()
    {
        if (direction_trainer_ && direction_trainer_->wanted()) linking_ = Linking::direction;
        const auto model_of = [this](CodecId id, Trainer &trainer) {
            return linking_ == Linking::direction ? direction_trainer_->finish(id) : trainer.finish([] { poll_interrupts(); });
        };
        model_ = model_of(codec_id_, *trainer_);
        codec_ = open_codec(column_, codec_id_, linking_, model_);
        if (graph_trainer_) {
            graph_model_ = model_of(graph_codec_id_, *graph_trainer_);
            graph_codec_ = open_codec(column_, graph_codec_id_, linking_, graph_model_);
        }
        direction_trainer_.reset();  // with its sample
        hash_seed_ = new_index_seed(model_);
    }

    void train()
    {
        set_phase(kSampling);
        shape_hint_ = Shape{};
        shape_hint_.dim = column_.dim;
        shape_hint_.scalar = column_.scalar;
        shape_hint_.metric = column_.metric;
        make_trainers();
        if (codec_id_ != CodecId::none || direction_trainer_) sample();
        finish_models();
        shape_hint_.hash_seed = hash_seed_;
    }

    void sample()
    {
        const BlockNumber blocks = pg_call([&] { return RelationGetNumberOfBlocks(heap_); });
        const BlockNumber runs = blocks <= kSampleBlocks ? 1 : kSampleBlocks / kSampleRun;
        for (BlockNumber r = 0; r < runs; ++r) {
            const auto start = static_cast<BlockNumber>(static_cast<uint64_t>(blocks) * r / runs);
            const BlockNumber count = runs == 1 ? blocks : kSampleRun;
            if (count == 0) break;
            pg_call([&] {
                table_index_build_range_scan(heap_, index_, info_, false, false, false, start, count, entry<sample_row>, this,
                                             nullptr);
            });
        }
    }

    void load()
    {
        const Codec &on = graph_codec_ ? *graph_codec_ : *codec_;
        graph::BuildParams params;
        params.m = m_;
        // Linked by direction, equal inner products have unlike distances: ties, which a search looks behind, are none (search.h).
        params.ef_construction = linking_ == Linking::direction ? std::max(ef_construction_, 4 * m_) : ef_construction_;
        params.seed = hash_seed_;
        params.poll = [] { poll_interrupts(); };
        params.payload_bytes = graph_codec_ ? codec_->code_size() + codec_->second_size() : 0;
        arena_.emplace(static_cast<size_t>(maintenance_work_mem) * 1024, [this](size_t bytes) { return spill_.allocate(bytes); });
        graph_.emplace(on, params, *arena_);
        set_phase(kLoading);
        set_tuples(0, static_cast<int64>(std::max(heap_->rd_rel->reltuples, 0.0f)));
        heap_tuples_ =
            pg_call([&] { return table_index_build_scan(heap_, index_, info_, true, true, entry<load_row>, this, nullptr); });
        if (spill_at_ >= 0) {
            const size_t need = arena_->used() / 1024 * 9 / 8 + 1024;  // chunks of a larger memory are larger
            pg_call([&] {
                ereport(NOTICE,
                        (errmsg("hnsw graph no longer fits into maintenance_work_mem after " INT64_FORMAT " tuples", spill_at_),
                         errdetail("The rest of the graph is kept in a temporary file of %zu kB.", spill_.bytes() / 1024),
                         errhint("With maintenance_work_mem of at least %zu kB the whole graph fits into memory.", need)));
            });
        }
    }

    // Any login may set max_parallel_maintenance_workers and max_parallel_workers: what only an administrator sets bounds them, as
    // it bounds PostgreSQL's own workers.
    unsigned workers() const
    {
        const int wanted = RelationGetParallelWorkers(heap_, max_parallel_maintenance_workers);
        const int most = std::min({max_parallel_maintenance_workers, max_parallel_workers, max_worker_processes});
        return static_cast<unsigned>(std::max(std::min(wanted, most), 0));
    }

    void link()
    {
        set_phase(kLinking);
        set_tuples(0, graph_->size());
        const unsigned helpers = workers();
        if (helpers > 0) pg_call([&] { ereport(DEBUG1, (errmsg("using %u parallel workers", helpers))); });
        const auto poll = [](uint64_t done) {
            pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_DONE, static_cast<int64>(done));
            // What may end this process or statement waits until the threads have ended.
            if (ProcDiePending || QueryCancelPending) return true;
            if (InterruptPending) pg_call([] { CHECK_FOR_INTERRUPTS(); });
            return false;
        };
        bool whole = graph_->link_all(helpers + 1, poll);
        if (whole && graph_->asks_otherwise()) {
            set_phase(kAnswering);
            set_tuples(0, graph_->size());
            whole = graph_->link_answers(helpers + 1, poll);
        }
        if (!whole) {
            pg_call([] {
                CHECK_FOR_INTERRUPTS();
                // Not taken, as interrupts are held off: the threads have stopped all the same.
                ereport(ERROR, (errcode(ERRCODE_QUERY_CANCELED), errmsg("canceling statement due to user request")));
            });
        }
        graph_->reach_all([] { poll_interrupts(); });
        if (graph_->find_sample([] { poll_interrupts(); }) > 0) graph_->reach_all([] { poll_interrupts(); });
    }

    void write()
    {
        Shape shape = make_shape(column_, m_, ef_construction_, codec_id_, *codec_, hash_seed_,
                                 static_cast<uint32_t>(model_.size()), linking_);
        GraphToWrite w{*graph_, shape, model_, graph_codec_ != nullptr};
        write_index(index_, w);
        set_phase(kLogging);
        log_index(index_, MAIN_FORKNUM);
    }

    Relation heap_, index_;
    IndexInfo *info_;
    Column column_{};
    uint32_t m_ = 0, ef_construction_ = 0;
    CodecId codec_id_{}, graph_codec_id_{};
    uint64_t hash_seed_ = 0;
    MemoryContext context_ = nullptr;  // of one row; goes with its parent
    Shape shape_hint_{};
    Linking linking_ = Linking::distance;
    std::unique_ptr<Trainer> trainer_, graph_trainer_;
    std::optional<DirectionTrainer> direction_trainer_;
    std::vector<uint8_t> model_, graph_model_;
    std::unique_ptr<Codec> codec_, graph_codec_;
    SpillFile spill_;
    std::optional<graph::Arena> arena_;
    std::optional<graph::MemoryGraph> graph_;
    double heap_tuples_ = 0, index_tuples_ = 0;
    int64 spill_at_ = -1;
};

}  // namespace

IndexBuildResult *build(Relation heap, Relation index, IndexInfo *info)
{
    if (RelationGetNumberOfBlocks(index) != 0)
        throw Error(Errc::internal, "index \"" + std::string(RelationGetRelationName(index)) + "\" already contains data");
    double heap_tuples, index_tuples;
    {
        Build b(heap, index, info);
        b.run();
        heap_tuples = b.heap_tuples();
        index_tuples = b.index_tuples();
    }
    auto *result = static_cast<IndexBuildResult *>(palloc(sizeof(IndexBuildResult)));
    result->heap_tuples = heap_tuples;
    result->index_tuples = index_tuples;
    return result;
}

void build_empty(Relation index)
{
    Build b(nullptr, index, nullptr);
    b.write_empty(INIT_FORKNUM);
}

char *phase_name(int64 phase)
{
    const char *name = nullptr;
    switch (phase) {
        case PROGRESS_CREATEIDX_SUBPHASE_INITIALIZE:
            name = "initializing";
            break;
        case kSampling:
            name = "sampling";
            break;
        case kLoading:
            name = "loading tuples";
            break;
        case kLinking:
            name = "linking graph";
            break;
        case kAnswering:
            name = "linking answers";
            break;
        case kWriting:
            name = "writing pages";
            break;
        case kLogging:
            name = "writing WAL";
            break;
        default:
            return nullptr;
    }
    return pstrdup(name);
}

}  // namespace vkv::hnsw
