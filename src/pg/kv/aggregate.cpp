// The aggregate kv.attention(q, tile, ...): online softmax over tiles in any order, on any number of workers.
//
// Its transition type is the plain kv.state, so that partial results travel between processes and servers as any value does. While
// a plan runs, the state of a group is an expanded object: PostgreSQL's way of keeping a value in a form that is good to compute
// with (as arrays in PL/pgSQL). It holds a PartialAttention, whose sums may be in a rotated basis; it is made flat when it
// leaves the plan node. Where a state comes flat (a distributed plan copies it on every call) it is updated in place.

#include "core/error.h"
#include "core/text/message.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/arguments.h"
#include "pg/kv/state_partial.h"

namespace vkv::kv {
namespace {

// PostgreSQL decides by what a memory context says of itself whether a hashed aggregate must spill; what C++ allocates for a group
// is added there.
struct GroupState {
    explicit GroupState(MemoryContext context) : memory(context) {}
    ~GroupState() { memory->mem_allocated -= counted; }
    GroupState(const GroupState &) = delete;
    GroupState &operator=(const GroupState &) = delete;
    void add(const QueryArguments &arguments, const TileView &tile)
    {
        attention.add(arguments, tile);
        if (attention.bytes() == counted) return;
        memory->mem_allocated += attention.bytes() - counted;
        counted = attention.bytes();
    }
    PartialAttention attention;
    MemoryContext memory;
    size_t counted = 0;
};

struct ExpandedState {
    ExpandedObjectHeader header;  // first, so that PostgreSQL's pointer is ours
    GroupState *group;
};

ExpandedState *from_header(ExpandedObjectHeader *header) { return reinterpret_cast<ExpandedState *>(header); }

Size flat_size(ExpandedObjectHeader *header)
{
    const PartialAttention &attention = from_header(header)->group->attention;
    return state_bytes(static_cast<uint32_t>(attention.rows()), static_cast<uint32_t>(attention.dim()));
}

void flatten(ExpandedObjectHeader *header, void *result, Size size)
{
    PartialAttention &attention = from_header(header)->group->attention;
    auto *state = static_cast<StateHeader *>(result);
    init_state(static_cast<uint32_t>(attention.rows()), static_cast<uint32_t>(attention.dim()), state, look_for_interrupts);
    SET_VARSIZE(state, size);
    attention.merge_into(state);
}

constexpr ExpandedObjectMethods kMethods = {entry<flat_size>, entry<flatten>};

// A child of the aggregate's memory, where PostgreSQL expects an expanded object that it shall not copy. One for all groups:
// a hashed aggregate looks at every child each time a group is added. Either end of the link may go first.
struct Caller;
struct GroupMemory {
    ~GroupMemory();
    MemoryContext parent, memory;
    Caller *caller;
};

// What a call of the transition function keeps from row to row.
struct Caller {
    ~Caller()
    {
        if (groups != nullptr) groups->caller = nullptr;
    }
    GroupMemory *groups = nullptr;
    PartialAttention flat;  // of states that are not expanded
};

GroupMemory::~GroupMemory()
{
    if (caller != nullptr) caller->groups = nullptr;
}

Caller *caller_of(FunctionCallInfo fcinfo)
{
    FmgrInfo *call = fcinfo->flinfo;
    if (call->fn_extra == nullptr) call->fn_extra = own<Caller>(call->fn_mcxt);
    return static_cast<Caller *>(call->fn_extra);
}

MemoryContext group_memory(Caller *caller, MemoryContext parent)
{
    if (caller->groups != nullptr && caller->groups->parent == parent) return caller->groups->memory;
    MemoryContext memory = AllocSetContextCreate(parent, "kv.state", ALLOCSET_DEFAULT_SIZES);
    auto *groups = own<GroupMemory>(memory);
    if (caller->groups != nullptr) caller->groups->caller = nullptr;
    *groups = {parent, memory, caller};
    caller->groups = groups;
    return memory;
}

ExpandedState *new_expanded_state(MemoryContext memory)
{
    auto *state = static_cast<ExpandedState *>(MemoryContextAllocZero(memory, sizeof(ExpandedState)));
    EOH_init_header(&state->header, &kMethods, memory);
    state->group = own<GroupState>(memory, memory);
    return state;
}

// Null unless the datum is an expanded state that may be changed.
ExpandedState *writable_expanded(Datum datum)
{
    if (!VARATT_IS_EXTERNAL_EXPANDED_RW(DatumGetPointer(datum))) return nullptr;
    ExpandedObjectHeader *header = DatumGetEOHP(datum);
    return header->eoh_methods == &kMethods ? from_header(header) : nullptr;
}

// A flat state with the tile added: the same one if an aggregate owns it.
Datum add_to_flat(FunctionCallInfo fcinfo, bool owned, const QueryArguments &arguments, const TileView &tile)
{
    const StateHeader *given = datum_state(PG_GETARG_DATUM(0));
    view_of(given);
    PartialAttention *attention = &caller_of(fcinfo)->flat;
    attention->clear();
    attention->add(arguments, tile);
    auto *state = const_cast<StateHeader *>(given);
    if (!owned && PointerGetDatum(given) == PG_GETARG_DATUM(0)) {
        state = static_cast<StateHeader *>(palloc(VARSIZE(given)));
        copy_data(state, given, VARSIZE(given));
    }
    attention->merge_into(state);
    return PointerGetDatum(state);
}

Datum first_state(FunctionCallInfo fcinfo, const QueryArguments &arguments, const TileView &tile)
{
    PartialAttention *attention = &caller_of(fcinfo)->flat;
    attention->clear();
    attention->add(arguments, tile);
    StateHeader *state = make_state(attention->rows(), attention->dim());
    attention->merge_into(state);
    return PointerGetDatum(state);
}

}  // namespace

// attention_step(state, q, tile, scale, softcap, rope): rows without q or tile do not count.
SQL_FUNCTION(kv_attention_step)
{
    const bool first = PG_ARGISNULL(0);
    if (PG_ARGISNULL(1) || PG_ARGISNULL(2)) {
        if (first) PG_RETURN_NULL();
        return PG_GETARG_DATUM(0);
    }
    const TileView tile = tile_argument(fcinfo, 2);
    const QueryArguments arguments = query_arguments(fcinfo, 1, 3);
    MemoryContext aggregate = nullptr;
    const bool owned = AggCheckCallContext(fcinfo, &aggregate) != 0;
    ExpandedState *state = nullptr;
    if (first && !owned) return first_state(fcinfo, arguments, tile);
    if (first) state = new_expanded_state(group_memory(caller_of(fcinfo), aggregate));
    if (!first && owned) state = writable_expanded(PG_GETARG_DATUM(0));
    if (state == nullptr) return add_to_flat(fcinfo, owned, arguments, tile);
    state->group->add(arguments, tile);
    return first ? EOHPGetRWDatum(&state->header) : PG_GETARG_DATUM(0);
}

}  // namespace vkv::kv
