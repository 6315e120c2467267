/* The form of a venue's message: which of its values are wanted, and what they must be. daemon/feeds/forms.py writes
forms and tells of their parts.

A form is a tree: objects by the names of their fields, arrays, and at the leaves *slots*, numbered in the order of the
form. `form_take` walks message and form side by side and fills the slots. It takes nothing but what is plain: a field
that comes twice, an escape, a number with an exponent, a word that the form does not have make it answer 0, and the
message is Python's. Fields that the form does not name are passed over, if they are JSON. */

#ifndef MARKETD_FORM_H
#define MARKETD_FORM_H

#include "rows.h"

enum { MOST_SLOTS = 32, MOST_FORM_DEPTH = 8 };

enum Kind { /* as in daemon/feeds/forms.py */
    REFUSED, /* a message that has it is of another form */
    TEXT,    /* any plain text, of no use; Python wants one there, too */
    ANYTHING,
    WORD,    /* one of the words; its value is which */
    KEY,     /* names the reader of the message's instrument */
    COUNT,   /* an integer from 0 on, times `number`: as a JSON number, */
    DIGITS,  /* … as a text, */
    LOOSE,   /* … as either */
    CLOCK,   /* an integer of ms or µs, told apart by its magnitude; in ns */
    MOMENT,  /* a time in words; in ns */
    ID,      /* a text: an integer, or anything that Python makes a hash of */
    PRICE,
    SIZE,
    /* what follows are levels */
    BIDS,
    ASKS, /* arrays of [price, size]; `number`: of so many texts more */
    DATED_BIDS,
    DATED_ASKS, /* arrays of [price, size, seconds] */
    SIDED,      /* an array of [side, price, size]; the words are the sides' */
    OBJECTS,    /* an array of objects; the words are price, size, side, bid, ask */
    BID_OBJECTS,
    ASK_OBJECTS, /* … price, size */
    KINDS
};

typedef struct {
    enum Kind kind;
    int role;           /* of a trade */
    PyObject *fallback; /* where the field is left out; NULL: it must be there */
    int64_t absent;     /* the same as an integer, where it is one */
    int64_t number; /* what a count is multiplied with; how numbers are written; texts behind a level */
    int64_t most;   /* of a count, times its number */
    char separator; /* words are what stands behind the first of these; 0: all of the text */
    int words_count;
    Word *words;
    Names names; /* of objects */
} Slot;

typedef struct Node {
    enum { LEAF, OBJECT, ARRAY, REPEATED } shape;
    char is_innermost; /* a repeated array without another in it: its elements are rows */
    int first, end;    /* the slots in it */
    int count;
    uint64_t parts; /* of an object: the fields that are no slots, which must be there */
    struct Node *children;
    Word *names; /* of an object's fields */
} Node;

typedef struct {
    Node root;
    Slot slots[MOST_SLOTS];
    int count, repeated;
    char has_levels, has_dates;
    PyObject *kept; /* the objects whose texts the words are */
} Form;

/* What was found at a slot. Levels, prices and sizes wait until it is known whose they are. */
typedef struct {
    enum { MISSING, TAKEN, WAITING } standing;
    int64_t value;
    Word word; /* as it is written, of what waits and of an ID */
} Found;

typedef struct Walk Walk;
struct Walk {
    const Form *form;
    PyObject *readers;    /* a dict: key -> Reader */
    ReaderObject *reader; /* whose the message is, once that is known */
    int (*on_row)(Walk *, const Node *); /* at each row's end: 1, 0 or -1; NULL where there may be one row only */
    const char *end; /* of the message */
    Found found[MOST_SLOTS];
    Rows *bids, *asks;
    int last_levels; /* the slot of the levels that were taken last */
    int64_t told[TOLD];
};

/* 0, or -1 with an exception. */
int form_make(Form *form, PyObject *written);
void form_free(Form *form);

void walk_begin(Walk *walk, const Form *form, PyObject *readers);
/* 1, 0 where the message is Python's, or -1 with an exception. */
int form_take(Walk *walk, const char *message, Py_ssize_t length);
void walk_end(Walk *walk);
/* Take what waits in these slots, now that their reader must be known; 0 also where one is missing that may not. */
int take_waiting(Walk *walk, int first, int end);
/* The value of a slot that was taken, or what it is where it was left out. */
int64_t value_of(const Walk *walk, int index);

#endif
