"""Problems of three steps."""

from __future__ import annotations

from rlif.tasks.word_problems.drawing import Draft, Draw, Template, draft
from rlif.tasks.word_problems.english import (
    BAKED,
    CLOTHES,
    CONTAINERS,
    FLOWERS,
    FRUIT,
    KEEPSAKES,
    STATIONERY,
    a,
    count,
    dollars,
    part_of,
    plain_dollars,
)


def two_things_and_change(d: Draw) -> Draft:
    who, (thing, other) = d.person(), d.picks(STATIONERY, 2)
    number, price, single = d.number((2, 4), (3, 8)), d.cents((1, 3), (1, 4)), d.cents((1, 4), (2, 8))
    several = number * price
    cost = several + single
    bill = 100 * min(each for each in (20, 50) if 100 * each > cost)
    aside = d.aside(f"The store is {d.number((3, 5), (3, 12))} blocks away.")
    return draft(
        f"{who.name} buys {count(number, thing)} for {dollars(price)} each and {a(other.one)} for {dollars(single)}. "
        f"{aside}{who.He} pays with a {dollars(bill)} bill. How many dollars of change does {who.he} get?",
        f"The {thing.many} cost {number} * {dollars(price)} = {dollars(several)}.",
        f"Everything costs {dollars(several)} + {dollars(single)} = {dollars(cost)}.",
        f"{who.name} gets {dollars(bill)} - {dollars(cost)} = {dollars(bill - cost)} of change.",
        answer=plain_dollars(bill - cost),
    )


def legs_on_a_farm(d: Draw) -> Draft:
    who, four, two = d.person(), d.pick(("cow", "goat", "pig", "horse")), d.pick(("duck", "hen", "turkey"))
    many, more = d.number((2, 5), (8, 40)), d.number((2, 6), (9, 60))
    aside = d.aside(f"The farm is {d.number((20, 30), (25, 120))} years old.")
    return draft(
        f"On {who.name}'s farm there are {many} {four}s and {more} {two}s. A {four} has 4 legs and a {two} has 2 legs. "
        f"{aside}How many legs do the {four}s and the {two}s have in all?",
        f"The {four}s have {many} * 4 = {many * 4} legs.",
        f"The {two}s have {more} * 2 = {more * 2} legs.",
        f"In all there are {many * 4} + {more * 2} = {many * 4 + more * 2} legs.",
        answer=many * 4 + more * 2,
    )


def average_of_three(d: Draw) -> Draft:
    who = d.person()
    average, spread = d.number((5, 9), (15, 60)), d.number((1, 3), (3, 12))
    other = d.number((1, 4), (2, 14))
    pages = average - spread, average + other, average + spread - other
    first, second, third = pages
    aside = d.aside(f"The book cost {dollars(100 * d.number((5, 9), (6, 30)))}.")
    return draft(
        f"{who.name} reads a book for three days: {first} pages on Friday, {second} pages on Saturday and {third} "
        f"pages on Sunday. {aside}How many pages a day is that on average?",
        f"On Friday and Saturday {who.name} reads {first} + {second} = {first + second} pages.",
        f"In all {who.he} reads {first + second} + {third} = {3 * average} pages.",
        f"The average is {3 * average} / 3 = {average} pages a day.",
        answer=average,
    )


def lemonade_stand(d: Draw) -> Draft:
    who = d.person()
    cups, price = d.number((8, 15), (30, 90)), d.number((2, 3), (2, 5))
    lemons, sugar = d.number((2, 7), (9, 25)), d.number((1, 5), (6, 18))
    taken, spent = cups * price, lemons + sugar
    aside = d.aside(f"The sun shines for {d.number((5, 8), (6, 13))} hours.")
    return draft(
        f"{who.name} spends ${lemons} on lemons and ${sugar} on sugar. {aside}Then {who.he} sells {cups} cups of "
        f"lemonade for ${price} each. How many dollars of profit does {who.he} make?",
        f"{who.name} spends ${lemons} + ${sugar} = ${spent}.",
        f"{who.He} takes in {cups} * ${price} = ${taken}.",
        f"The profit is ${taken} - ${spent} = ${taken - spent}.",
        answer=taken - spent,
    )


def garden_rows(d: Draw) -> Draft:
    who, flower = d.person(), d.pick(FLOWERS)
    vases, each = d.number((2, 4), (4, 12)), d.number((3, 6), (5, 16))
    rows = d.number((2, 5), (6, 18))
    per_row = vases * each // rows + d.number((1, 3), (2, 6))
    planted, cut = rows * per_row, vases * each
    aside = d.aside(f"The garden is {d.number((20, 30), (20, 90))} feet long.")
    return draft(
        f"{who.name} plants {rows} rows of {count(per_row, flower)} each. {aside}A storm breaks {planted - cut} of "
        f"the {flower.many}. {who.He} cuts the rest and puts the same number into each of {vases} vases. "
        f"How many {flower.many} are in each vase?",
        f"{who.name} plants {rows} * {per_row} = {planted} {flower.many}.",
        f"After the storm {planted} - {planted - cut} = {cut} are left.",
        f"Each vase holds {cut} / {vases} = {each} {flower.many}.",
        answer=each,
    )


def two_legs_of_a_trip(d: Draw) -> Draft:
    who = d.person()
    slow, slow_hours = d.number((15, 30), (25, 45), step=5), d.number((2, 4), (2, 7))
    fast, fast_hours = d.number((35, 60), (50, 75), step=5), d.number((2, 3), (2, 6))
    one, two = slow * slow_hours, fast * fast_hours
    aside = d.aside(f"{who.His} car is {d.number((2, 5), (2, 16))} years old.")
    return draft(
        f"{who.name} drives for {slow_hours} hours at {slow} miles per hour, and then for {fast_hours} hours at {fast} "
        f"miles per hour. {aside}How many miles does {who.he} drive in all?",
        f"First {who.name} drives {slow_hours} * {slow} = {one} miles.",
        f"Then {who.he} drives {fast_hours} * {fast} = {two} miles.",
        f"In all that is {one} + {two} = {one + two} miles.",
        answer=one + two,
    )


def pocket_money(d: Draw) -> Draft:
    who, thing, part = d.person(), d.pick(CLOTHES), d.part()
    weeks = part.denominator * d.number((1, 2), (1, 5))
    weekly = d.number((4, 10), (6, 30))
    weeks = max(weeks, 2)
    total = weekly * weeks
    spent = int(total * part)
    aside = d.aside(f"{who.He} has {d.number((2, 3), (2, 7))} cousins.")
    return draft(
        f"{who.name} saves ${weekly} each week for {weeks} weeks. {aside}Then {who.he} spends {part_of(part)} of "
        f"the money on {a(thing.one)}. How many dollars does {who.he} have left?",
        f"{who.name} saves {weeks} * ${weekly} = ${total}.",
        f"{who.He} spends ${total} * {part} = ${spent}.",
        f"{who.He} has ${total} - ${spent} = ${total - spent} left.",
        answer=total - spent,
    )


def compares_three(d: Draw) -> Draft:
    (who, other, third), thing = d.people(3), d.pick(KEEPSAKES)
    number, times = d.number((4, 9), (13, 60)), d.number((3, 4), (3, 7))
    many = number * times
    fewer = d.number((2, 4), (5, 12))
    rest = many - fewer
    aside = d.aside(f"{who.name} is {d.number((7, 9), (7, 14))} years old.")
    return draft(
        f"{who.name} has {count(number, thing)}. {other.name} has {times} times as many as {who.name}, and "
        f"{third.name} "
        f"has {fewer} fewer than {other.name}. {aside}How many more {thing.many} does {third.name} have than "
        f"{who.name}?",
        f"{other.name} has {number} * {times} = {many} {thing.many}.",
        f"{third.name} has {many} - {fewer} = {rest} {thing.many}.",
        f"{third.name} has {rest} - {number} = {rest - number} {thing.many} more than {who.name}.",
        answer=rest - number,
    )


def market_stall(d: Draw) -> Draft:
    who, container, fruit = d.person(), d.pick(CONTAINERS), d.pick(FRUIT)
    containers, each = d.number((2, 5), (4, 12)), d.number((4, 8), (10, 30))
    spoiled, price = d.number((1, 5), (4, 25)), d.number((2, 3), (2, 4))
    total = containers * each
    good = total - spoiled
    aside = d.aside(f"The market closes at {d.number((4, 6), (4, 7))} o'clock.")
    are = "is" if spoiled == 1 else "are"
    return draft(
        f"{who.name} brings {count(containers, container)} of {fruit.many} to the market, with {count(each, fruit)} in "
        f"each {container.one}. {aside}Of the {fruit.many}, {spoiled} {are} spoiled. {who.name} sells all the "
        f"others for ${price} each. How many dollars does {who.he} take in?",
        f"{who.name} brings {containers} * {each} = {total} {fruit.many}.",
        f"Of these, {total} - {spoiled} = {good} can be sold.",
        f"{who.name} takes in {good} * ${price} = ${good * price:,}.",
        answer=good * price,
    )


def library(d: Draw) -> Draft:
    shelves, each = d.number((2, 5), (6, 25)), d.number((6, 10), (18, 40))
    lent, back = d.number((4, 9), (25, 90)), d.number((2, 3), (11, 24))
    total = shelves * each
    aside = d.aside(f"The library has {d.number((20, 30), (25, 95))} chairs.")
    return draft(
        f"A small library has {shelves} shelves with {each} books on each shelf. {aside}On Monday {lent} books are "
        f"lent out, and on Tuesday {back} of them are brought back. How many books are in the library then?",
        f"The library has {shelves} * {each} = {total} books.",
        f"After Monday {total} - {lent} = {total - lent} books are in the library.",
        f"After Tuesday there are {total - lent} + {back} = {total - lent + back} books.",
        answer=total - lent + back,
    )


def bigger_batch(d: Draw) -> Draft:
    who, thing = d.person(), d.pick(BAKED)
    batch, cups, times = d.number((6, 12), (8, 24), step=2), d.number((2, 4), (3, 7)), d.number((2, 4), (4, 9))
    needed = cups * times
    at_home = d.number((1, 3), (2, 11))
    aside = d.aside(f"The oven has to be heated for {d.number((10, 15), (10, 25), step=5)} minutes.")
    has = "1 cup" if at_home == 1 else f"{at_home} cups"
    return draft(
        f"A recipe for {batch} {thing.many} takes {cups} cups of flour. {aside}{who.name} wants to bake "
        f"{batch * times} {thing.many} and has {has} of flour. How many more cups of flour does {who.he} need?",
        f"{who.name} makes {batch * times} / {batch} = {times} times the recipe.",
        f"That takes {times} * {cups} = {needed} cups of flour.",
        f"{who.He} needs {needed} - {at_home} = {needed - at_home} cups more.",
        answer=needed - at_home,
    )


def reduced_order(d: Draw) -> Draft:
    who, thing, percent = d.person(), d.pick(CLOTHES), d.percent()
    number, price = d.number((2, 5), (3, 9)), d.number((20, 40), (20, 60), step=20)
    total = number * price
    off = total * percent // 100
    aside = d.aside(f"The store has been open for {d.number((3, 9), (3, 40))} years.")
    return draft(
        f"{who.name} orders {count(number, thing)} for ${price} each. {aside}A coupon reduces the price of the "
        f"whole order by {percent}%. How many dollars does {who.name} pay?",
        f"Without the coupon the {thing.many} cost {number} * ${price} = ${total}.",
        f"The coupon takes off ${total} * {percent}/100 = ${off}.",
        f"{who.name} pays ${total} - ${off} = ${total - off}.",
        answer=total - off,
    )


def filling_a_tank(d: Draw) -> Draft:
    percent = d.percent()
    size = d.number((100, 200), (300, 900), step=20)
    rate, minutes = d.number((2, 5), (3, 8)), d.number((3, 6), (6, 9))
    inside, added = size * percent // 100, rate * minutes
    aside = d.aside(f"The tank is {d.number((2, 3), (2, 6))} feet wide.")
    return draft(
        f"A tank holds {size} liters when it is full. Now {percent}% of the tank is filled with water. {aside}"
        f"A pump adds {rate} liters each minute. How many liters of water are in the tank after {minutes} minutes?",
        f"At first {size} * {percent}/100 = {inside} liters are in the tank.",
        f"The pump adds {minutes} * {rate} = {added} liters.",
        f"Then {inside} + {added} = {inside + added} liters are in the tank.",
        answer=inside + added,
    )


TRAIN: tuple[Template, ...] = (
    two_things_and_change,
    legs_on_a_farm,
    average_of_three,
    lemonade_stand,
    garden_rows,
    two_legs_of_a_trip,
    pocket_money,
    compares_three,
    market_stall,
)
TEST: tuple[Template, ...] = (library, bigger_batch, reduced_order, filling_a_tank)
