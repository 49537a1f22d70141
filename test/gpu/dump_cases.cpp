// Writes down attention as the helper program answers it: tiles, queries and states of every codec and geometry, for a check by
// somebody else's arithmetic (check_torch.py). Nothing here computes an answer.
//
//   dump_cases FOLDER [--helper PATH] [--device NAME] [--few 1] [--patience SECONDS] [--seed N]
//
// FOLDER/cases.jsonl holds one JSON object a line: {"device"}, {"set"} for the tiles that cases share, {"case"} for one request,
// and
// {"end"} when all were answered. Places in it are bytes of FOLDER/data.bin: tiles as they are stored, varlena word and all,
// queries f32 [items][kv_heads][rows][dim_k] and states f32 [items][kv_heads] of {m [rows], l [rows], o [rows][dim_v]}.
#include <cinttypes>
#include <cstdio>
#include <deque>
#include <fstream>

#include "helper_cases.h"

namespace vkv::gpu {
namespace {

constexpr int kKvHeads = 2;

struct Settings {
    std::string folder, helper = VKV_HELPER, device = "cpu";
    bool few = false;
    uint64_t patience = 30, seed = 1;
};

Settings read_settings(int count, char **words)
{
    Settings s;
    if (count < 2 || count % 2) throw std::runtime_error("dump_cases FOLDER [--option value ...]");
    s.folder = words[1];
    for (int i = 2; i + 1 < count; i += 2) {
        const std::string name = words[i], value = words[i + 1];
        if (name == "--helper")
            s.helper = value;
        else if (name == "--device")
            s.device = value;
        else if (name == "--few")
            s.few = value != "0";
        else if (name == "--patience")
            s.patience = std::stoull(value);
        else if (name == "--seed")
            s.seed = std::stoull(value);
        else
            throw std::runtime_error("unknown option " + name);
    }
    return s;
}

// ---- what is written --------------------------------------------------------------------------------------------------------

class Dump {
public:
    explicit Dump(const std::string &folder)
    {
        std::filesystem::create_directories(folder);
        lines_.open(folder + "/cases.jsonl", std::ios::trunc);
        data_.open(folder + "/data.bin", std::ios::trunc | std::ios::binary);
    }
    void line(const std::string &json) { lines_ << json << '\n'; }
    uint64_t put(const void *bytes, size_t n)
    {
        const uint64_t at = end_;
        data_.write(static_cast<const char *>(bytes), static_cast<std::streamsize>(n));
        const char zeros[8] = {};
        data_.write(zeros, static_cast<std::streamsize>((8 - n % 8) % 8));
        end_ += (n + 7) / 8 * 8;
        return at;
    }
    uint64_t put(const std::vector<float> &floats) { return put(floats.data(), floats.size() * sizeof(float)); }
    void close()
    {
        lines_.close();
        data_.close();
        if (!lines_ || !data_) throw std::runtime_error("the files could not be written");
    }

private:
    std::ofstream lines_, data_;
    uint64_t end_ = 0;
};

template <class... Arguments>
std::string text(const char *format, Arguments... arguments)
{
    std::string out(static_cast<size_t>(std::snprintf(nullptr, 0, format, arguments...)), '\0');
    std::snprintf(out.data(), out.size() + 1, format, arguments...);
    return out;
}

std::string quoted(const std::string &s)
{
    std::string out = "\"";
    for (const char c : s) {
        if (c == '"' || c == '\\') out += '\\';
        out += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
    }
    return out + '"';
}

// ---- tiles ------------------------------------------------------------------------------------------------------------------

// Positions of an extent that an item reads.
struct Part {
    size_t extent;
    int32_t from, to;
};

struct ItemParts {
    int32_t total;
    std::vector<Part> parts;
};

struct Set {
    uint64_t number;
    std::string codecs;
    std::deque<Extent> extents;  // cases point to them
    std::vector<ItemParts> items;
    const Shape &shape() const { return extents.front().shape(); }
};

// A ragged batch: full tiles, tiles of few tokens, one token, a fork, a sequence that ends within a tile, and a part of a sequence.
Set one_codec(uint64_t number, const Shape &shape, uint32_t seed)
{
    Set set{number, kv::codec_name(shape.codec), {}, {}};
    const int capacity = kv::tile_capacity(shape.tile());
    const int32_t length = 4 * capacity + capacity / 2 + 1, fork = length / 2, branch = capacity + 5;
    Shape small = shape;
    small.a_tile = std::min(3, capacity);
    set.extents.emplace_back(shape, 0, length, seed);
    set.extents.emplace_back(small, 0, 31, seed + 1);
    set.extents.emplace_back(shape, 0, 1, seed + 2);
    Shape biased = shape;
    biased.bias = 12;
    set.extents.emplace_back(biased, fork, branch, seed + 3);
    set.items.push_back({length, {{0, 0, length}}});
    set.items.push_back({31, {{1, 0, 31}}});
    set.items.push_back({1, {{2, 0, 1}}});
    set.items.push_back({fork + branch, {{0, 0, fork}, {3, fork, fork + branch}}});
    set.items.push_back({length - 3, {{0, 0, length - 3}}});
    set.items.push_back({length, {{0, length / 3, length}}});
    return set;
}

// A cache that was recoded in part: each head has tiles of every codec.
Set every_codec(uint64_t number, Shape shape, uint32_t seed)
{
    Set set{number, "mixed", {}, {}};
    std::vector<Part> parts;
    int32_t at = 0;
    for (int codec = 0; codec < kv::kCodecs; codec++) {
        shape.codec = static_cast<kv::Codec>(codec);
        const int tokens = 2 * kv::tile_capacity(shape.tile()) + 1;
        set.extents.emplace_back(shape, at, tokens, seed + static_cast<uint32_t>(codec));
        parts.push_back({static_cast<size_t>(codec), at, at + tokens});
        at += tokens;
    }
    set.items.push_back({at, parts});
    set.items.push_back({at, {parts.end() - 3, parts.end()}});
    return set;
}

void write_set(const Set &set, Dump *dump)
{
    std::string extents;
    std::vector<uint64_t> slab(offload::kSlabBytes / sizeof(uint64_t));
    for (const Extent &extent : set.extents) {
        std::string tiles;
        for (const offload::Entry &e : extent.entries()) {
            extent.copy(e.id, slab.data());
            const size_t bytes = kv::tile_bytes(kv::shape_of(*reinterpret_cast<const kv::TileHeader *>(slab.data())), e.tokens);
            tiles += text("%s[%" PRIu64 ",%zu]", tiles.empty() ? "" : ",", dump->put(slab.data(), bytes), bytes);
        }
        extents += (extents.empty() ? "[" : ",[") + tiles + "]";
    }
    dump->line(text(R"({"set":%)" PRIu64 R"(,"codecs":%s,"kv_heads":%d,"dim_k":%d,"dim_v":%d,"extents":[%s]})", set.number,
                    quoted(set.codecs).c_str(), set.shape().heads, set.shape().dim_k, set.shape().dim_v, extents.c_str()));
}

// ---- cases ------------------------------------------------------------------------------------------------------------------

struct Variant {
    const char *name;
    int q_len = 1;
    bool causal = true;
    int32_t window = 0, sinks = 0;
    float softcap = 0, sharpness = 1;  // scale = sharpness / sqrt(dim_k)
};

constexpr Variant kVariants[] = {
    {.name = "plain"},
    {.name = "sharp", .sharpness = 8},
    {.name = "window", .window = 20},
    {.name = "window and sinks", .window = 13, .sinks = 4},
    {.name = "soft cap", .softcap = 2},
    {.name = "causal", .q_len = 5},
    {.name = "all see all", .q_len = 3, .causal = false},
    {.name = "all options", .q_len = 3, .window = 25, .sinks = 2, .softcap = 5, .sharpness = -2},
};
constexpr const Variant &kPlain = kVariants[0], &kAllOptions = kVariants[7];

Case make_case(const Set &set, int group, const Variant &v, bool shared)
{
    Case c;
    c.rows = group * v.q_len;
    c.q_len = v.q_len;
    c.causal = v.causal;
    c.window = v.window;
    c.sinks = v.sinks;
    c.softcap = v.softcap;
    c.scale = v.sharpness / std::sqrt(static_cast<float>(set.shape().dim_k));
    for (const ItemParts &item : set.items) {
        c.add_item(item.total);
        for (const Part &p : item.parts) {
            const Extent &extent = set.extents[p.extent];
            c.add_span(extent, set.number * 16 + p.extent, p.from, p.to, shared && extent.first() == 0);
        }
    }
    return c;
}

std::string items_json(const Set &set)
{
    std::string out;
    for (const ItemParts &item : set.items) {
        std::string spans;
        for (const Part &p : item.parts) spans += text("%s[%zu,%d,%d]", spans.empty() ? "" : ",", p.extent, p.from, p.to);
        out += text(R"(%s{"total":%d,"spans":[%s]})", out.empty() ? "" : ",", item.total, spans.c_str());
    }
    return out;
}

class Writer {
public:
    Writer(const Settings &s, offload::Client *client) : client_(client), dump_(s.folder), seed_(static_cast<uint32_t>(s.seed)) {}

    void begin(const Settings &s)
    {
        dump_.line(text(R"({"device":%s,"asked_for":%s,"seed":%)" PRIu64 "}", quoted(client_->arena().device).c_str(),
                        quoted(s.device).c_str(), s.seed));
    }
    void add(const Set &set, const std::vector<int> &groups, const std::vector<Variant> &variants)
    {
        write_set(set, &dump_);
        for (const int group : groups)
            for (const Variant &v : variants) one(set, group, v);
    }
    void end()
    {
        const offload::ArenaHeader h = snapshot(client_->arena());
        dump_.line(text(R"({"end":true,"cases":%)" PRIu64 R"(,"batches":%)" PRIu64 R"(,"launches":%)" PRIu64 R"(,"misses":%)" PRIu64
                        R"(,"hits":%)" PRIu64 R"(,"evictions":%)" PRIu64 "}",
                        cases_, h.batches, h.launches, h.misses, h.hits, h.evictions));
        dump_.close();
    }
    uint64_t cases() const { return cases_; }

private:
    void one(const Set &set, int group, const Variant &v)
    {
        // By turns through the helper's page tables and past them.
        Case c = make_case(set, group, v, cases_ % 2 == 0);
        const std::vector<float> q = c.queries(seed_++);
        std::string answer;
        try {
            const std::vector<float> states = c.ask(client_, q);
            const uint64_t queries_at = dump_.put(q);
            answer = text(R"("queries":%)" PRIu64 R"(,"states":%)" PRIu64, queries_at, dump_.put(states));
        } catch (const offload::Refused &refused) {
            if (refused.code() != offload::FailureCode::not_supported) throw;
            answer = "\"refused\":" + quoted(refused.what());
        }
        dump_.line(text(R"({"case":%)" PRIu64 R"(,"name":%s,"set":%)" PRIu64 R"(,"group":%d,"rows":%d,"q_len":%d,"causal":%s,)"
                        R"("scale":%.9g,"softcap":%.9g,"window":%d,"sinks":%d,"items":[%s],%s})",
                        cases_++, quoted(v.name).c_str(), set.number, group, c.rows, c.q_len, c.causal ? "true" : "false",
                        static_cast<double>(c.scale), static_cast<double>(c.softcap), c.window, c.sinks, items_json(set).c_str(),
                        answer.c_str()));
    }

    offload::Client *client_;
    Dump dump_;
    uint32_t seed_;
    uint64_t cases_ = 0;
};

class Plan {
public:
    Plan(const Settings &s, Writer *writer) : s_(s), writer_(writer) {}

    void write_all()
    {
        const std::vector<Variant> all(std::begin(kVariants), std::end(kVariants)), two{kPlain, kAllOptions};
        const std::vector<int> groups = s_.few ? std::vector<int>{4} : std::vector<int>{1, 3, 4, 8};
        for (int codec = 0; codec < kv::kCodecs; codec++) {
            const auto kind = static_cast<kv::Codec>(codec);
            for (const int dim : {64, 96, 128, 256}) add(one_codec, {kind, kKvHeads, dim, dim, 0, 0}, groups, s_.few ? two : all);
            if (s_.few) continue;
            add(one_codec, {kind, kKvHeads, 128, 64, 0, 0}, {3}, two);
            add(one_codec, {kind, kKvHeads, 64, 256, 0, 0}, {3}, two);
            add(one_codec, {kind, kKvHeads, 96, 128, 0, 0}, {3}, two);
            add(one_codec, {kind, kKvHeads, 256, 96, 0, 0}, {3}, two);
            // Values that are the first dimensions of the keys: a device may refuse these.
            add(one_codec, {kind, kKvHeads, 128, 96, 0, kv::kValuesInKeys}, {3}, two);
        }
        for (const int dim : {64, 96, 128, 256})
            add(every_codec, {kv::Codec::f16, kKvHeads, dim, dim, 0, 0}, {4}, s_.few ? two : all);
    }

private:
    template <class Make>
    void add(Make make, const Shape &shape, const std::vector<int> &groups, const std::vector<Variant> &variants)
    {
        writer_->add(make(sets_, shape, static_cast<uint32_t>(s_.seed * 1000000 + sets_ * 100)), groups, variants);
        sets_++;
    }

    const Settings &s_;
    Writer *writer_;
    uint64_t sets_ = 0;
};

// ---- the helper --------------------------------------------------------------------------------------------------------------

// Until it listens: opening a device takes a while, under a checking tool a long one. A helper that has ended never will.
void connect_to(offload::Client *client, const HelperProcess &helper, const std::string &socket, uint64_t patience)
{
    const auto wait = [patience](int fd) {
        pollfd p{fd, POLLIN, 0};
        if (::poll(&p, 1, static_cast<int>(patience * 1000)) == 0) throw std::runtime_error("no answer in time");
    };
    for (const uint64_t until = now_us() + patience * 1000000;;) {
        try {
            return client->connect(socket.c_str(), wait);
        } catch (const offload::Lost &) {
            siginfo_t ended{};
            ::waitid(P_PID, static_cast<id_t>(helper.pid()), &ended, WEXITED | WNOHANG | WNOWAIT);
            if (ended.si_pid != 0) throw std::runtime_error(text("the helper ended at once, exit code %d", ended.si_status));
            if (now_us() > until) throw;
            ::usleep(10000);
        }
    }
}

int run(int count, char **words)
{
    const Settings s = read_settings(count, words);
    const Folder folder;
    HelperProcess helper(s.helper, folder.socket(), {"--device", s.device, "--memory", "256", "--arena", "64"});
    offload::Client client;
    connect_to(&client, helper, folder.socket(), s.patience);
    Writer writer(s, &client);
    writer.begin(s);
    Plan(s, &writer).write_all();
    writer.end();
    const std::string device = client.arena().device;
    client.close();
    const int status = helper.end(SIGTERM);
    if (status != 0) throw std::runtime_error(text("the helper ended with status %d", status));
    std::printf("%" PRIu64 " cases by %s\n", writer.cases(), device.c_str());
    return 0;
}

}  // namespace
}  // namespace vkv::gpu

int main(int count, char **words)
{
    try {
        return vkv::gpu::run(count, words);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "dump_cases: %s\n", error.what());
        return 1;
    }
}
