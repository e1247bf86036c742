/* How a library lends out the memory of its tensors: what is used here of DLPack, major version 1 (dmlc/dlpack on GitHub). It
 * takes a tenth of the time that a tensor's own methods take, and nothing is owned or copied. */

#include "units.h"

typedef struct {
    void *data;
    int32_t device, place, dimensions;
    uint8_t kind, bits;
    uint16_t lanes;
    int64_t *sizes, *strides;
    uint64_t offset;
} Lent;

/* The function takes a Python object, and gives 0 or sets an exception. */
typedef struct {
    uint32_t major, minor;
    void *older, *allocate, *lend_to_keep, *take;
    int (*lend)(void *, Lent *);
} Lender;

enum { LENT_BY_MAJOR = 1, LENT_ON_HOST = 1, LENT_FLOAT = 2, LENT_BFLOAT = 4 };

/* NULL where torch does not lend, or had to refuse once: that takes it a thousand times as long as to lend. */
static const Lender *lender;

static int lent_type(const Lent *lent) {
    if (lent->kind == LENT_BFLOAT)
        return lent->bits == 16 ? BFLOAT16 : -1;
    if (lent->kind != LENT_FLOAT)
        return -1;
    return lent->bits == 32 ? FLOAT32 : lent->bits == 64 ? FLOAT64 : lent->bits == 16 ? FLOAT16 : -1;
}

/* The elements of a tensor of floats without gaps in the host's memory, 0 for another. */
static int borrow(PyObject *tensor, Elements *all) {
    Lent lent;
    if (lender->lend(tensor, &lent)) {
        lender = NULL;
        return 0;
    }
    all->type = lent_type(&lent);
    all->data = (const char *)lent.data + lent.offset;
    all->number = 1;
    int gaps = 0;
    for (int32_t axis = lent.dimensions - 1; axis >= 0; axis--) {
        gaps |= lent.sizes[axis] != 1 && lent.strides[axis] != all->number;
        all->number *= lent.sizes[axis];
    }
    return all->type >= 0 && lent.device == LENT_ON_HOST && lent.lanes == 1 && (!gaps || !all->number);
}

/* Takes up what a tensor's class has as ``__dlpack_c_exchange_api__``, if that is something of this version. */
static void lend_from(PyObject *offer) {
    const char *name = "dlpack_exchange_api";
    const Lender *found = PyCapsule_IsValid(offer, name) ? PyCapsule_GetPointer(offer, name) : NULL;
    lender = found && found->major == LENT_BY_MAJOR && found->lend ? found : NULL;
}
