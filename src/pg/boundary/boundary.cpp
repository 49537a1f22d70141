// Turns long jumps into exceptions and back; see boundary.h.
//
// Here is the only sigsetjmp of the project. Texts of C++ errors are copied into the transaction's memory without raising, so
// that nothing jumps out of a catch block.

#include "pg/boundary/boundary.h"

#include <exception>
#include <string_view>

#include "pg/boundary/fault.h"
#include "pg/boundary/pg.h"

namespace vkv {

int sqlstate_of(Errc code) noexcept
{
    switch (code) {
        case Errc::invalid_parameter:
            return ERRCODE_INVALID_PARAMETER_VALUE;
        case Errc::invalid_text:
            return ERRCODE_INVALID_TEXT_REPRESENTATION;
        case Errc::invalid_binary:
            return ERRCODE_INVALID_BINARY_REPRESENTATION;
        case Errc::data_exception:
            return ERRCODE_DATA_EXCEPTION;
        case Errc::numeric_overflow:
            return ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE;
        case Errc::array_subscript:
            return ERRCODE_ARRAY_SUBSCRIPT_ERROR;
        case Errc::null_not_allowed:
            return ERRCODE_NULL_VALUE_NOT_ALLOWED;
        case Errc::limit_exceeded:
            return ERRCODE_PROGRAM_LIMIT_EXCEEDED;
        case Errc::not_supported:
            return ERRCODE_FEATURE_NOT_SUPPORTED;
        case Errc::index_corrupted:
            return ERRCODE_INDEX_CORRUPTED;
        case Errc::data_corrupted:
            return ERRCODE_DATA_CORRUPTED;
        case Errc::undefined_object:
            return ERRCODE_UNDEFINED_OBJECT;
        case Errc::wrong_object_type:
            return ERRCODE_WRONG_OBJECT_TYPE;
        case Errc::duplicate_object:
            return ERRCODE_DUPLICATE_OBJECT;
        case Errc::wrong_state:
            return ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
        case Errc::out_of_memory:
            return ERRCODE_OUT_OF_MEMORY;
        case Errc::internal:
            return ERRCODE_INTERNAL_ERROR;
    }
    return ERRCODE_INTERNAL_ERROR;
}

namespace detail {
namespace {

constexpr const char *kOutOfMemory = "out of memory";

// Outlives every frame between the error and the boundary, and goes with the (sub)transaction that fails.
MemoryContext error_memory() noexcept { return CurTransactionContext != nullptr ? CurTransactionContext : TopMemoryContext; }

// Null if there is no memory, or nothing to copy.
const char *copy_text(std::string_view text) noexcept
{
    if (text.empty()) return nullptr;
    void *copy = MemoryContextAllocExtended(error_memory(), text.size() + 1, MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
    if (copy == nullptr) return nullptr;
    char *bytes = static_cast<char *>(copy);
    memcpy(bytes, text.data(), text.size());
    bytes[text.size()] = '\0';
    return bytes;
}

void describe(PendingError *pending, int sqlstate, std::string_view message) noexcept
{
    pending->message = copy_text(message);
    pending->sqlstate = pending->message != nullptr ? sqlstate : ERRCODE_OUT_OF_MEMORY;
}

// Puts PostgreSQL's state back however the guarded code is left.
//
// An error resets more than its handler: errfinish() sets the hold-off counters to 0, as if nothing were held any more. Here locks
// are held still, and the destructors that release them count down: from 0 they would come to 2^32 - 1, and this backend could
// never be cancelled or ended again. (CritSectionCount needs nothing: an error within a critical section is a PANIC.) Those
// destructors release pins, too, from the resource owner they were made for, which code that raises may have exchanged.
class StateGuard {
public:
    StateGuard() noexcept
        : exceptions_(PG_exception_stack),
          callbacks_(error_context_stack),
          memory_(CurrentMemoryContext),
          resources_(CurrentResourceOwner),
          interrupts_(InterruptHoldoffCount),
          cancels_(QueryCancelHoldoffCount)
    {
    }
    ~StateGuard()
    {
        PG_exception_stack = exceptions_;
        error_context_stack = callbacks_;
    }
    StateGuard(const StateGuard &) = delete;
    StateGuard &operator=(const StateGuard &) = delete;
    void restore_after_error() const noexcept
    {
        PG_exception_stack = exceptions_;
        error_context_stack = callbacks_;
        MemoryContextSwitchTo(memory_);
        CurrentResourceOwner = resources_;
        InterruptHoldoffCount = interrupts_;
        QueryCancelHoldoffCount = cancels_;
    }

private:
    sigjmp_buf *exceptions_;
    ErrorContextCallback *callbacks_;
    MemoryContext memory_;
    ResourceOwner resources_;
    uint32 interrupts_, cancels_;
};

// Moves the error out of PostgreSQL's stack; null if even that fails for want of memory.
ErrorData *take_error() noexcept
{
    StateGuard state;
    sigjmp_buf jump;
    if (sigsetjmp(jump, 0) != 0) {
        FlushErrorState();
        state.restore_after_error();
        return nullptr;
    }
    PG_exception_stack = &jump;
    MemoryContext before = MemoryContextSwitchTo(error_memory());
    ErrorData *data = CopyErrorData();
    FlushErrorState();
    MemoryContextSwitchTo(before);
    return data;
}

}  // namespace

void run_guarded(void (*body)(void *), void *argument)
{
    StateGuard state;
    sigjmp_buf jump;
    if (sigsetjmp(jump, 0) == 0) {
        PG_exception_stack = &jump;
        fault_point();
        body(argument);
        return;
    }
    state.restore_after_error();
    throw PgError(take_error());
}

void capture_exception(PendingError *pending) noexcept
{
    *pending = {};
    try {
        throw;
    } catch (const PgError &error) {
        pending->pg_error = error.data();
        if (error.data() == nullptr) pending->sqlstate = ERRCODE_OUT_OF_MEMORY;
    } catch (const Error &error) {
        describe(pending, sqlstate_of(error.code()), error.message());
        pending->hint = copy_text(error.hint());
        pending->detail = copy_text(error.detail());
    } catch (const std::bad_alloc &) {
        pending->sqlstate = ERRCODE_OUT_OF_MEMORY;
    } catch (const std::exception &error) {
        describe(pending, ERRCODE_INTERNAL_ERROR, error.what());
    } catch (...) {
        describe(pending, ERRCODE_INTERNAL_ERROR, "unknown C++ exception");
    }
}

void raise_pending(const PendingError &pending)
{
    if (pending.pg_error != nullptr) {
        // As errfinish() does for a new error: whatever the caller holds is released by its abort, which counts for itself.
        InterruptHoldoffCount = 0;
        QueryCancelHoldoffCount = 0;
        ReThrowError(pending.pg_error);
    }
    ereport(ERROR, (errcode(pending.sqlstate), errmsg_internal("%s", pending.message != nullptr ? pending.message : kOutOfMemory),
                    pending.detail != nullptr ? errdetail_internal("%s", pending.detail) : 0,
                    pending.hint != nullptr ? errhint("%s", pending.hint) : 0));
    pg_unreachable();
}

}  // namespace detail
void look_for_interrupts()
{
    if (InterruptPending) pg_call([] { CHECK_FOR_INTERRUPTS(); });
}

}  // namespace vkv
