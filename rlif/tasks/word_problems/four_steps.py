"""Problems of four steps."""

from __future__ import annotations

from math import gcd

from rlif.tasks.word_problems.drawing import Draft, Draw, Template, draft
from rlif.tasks.word_problems.english import (
    BAKED,
    KEEPSAKES,
    STATIONERY,
    count,
    dollars,
    part_of,
    plain_dollars,
)


def two_kinds_and_change(d: Draw) -> Draft:
    who, (thing, other) = d.person(), d.picks(STATIONERY, 2)
    number, price = d.number((2, 4), (3, 8)), d.cents((1, 3), (1, 4))
    number_too, price_too = d.number((2, 4), (2, 7)), d.cents((1, 3), (1, 5))
    one, two = number * price, number_too * price_too
    bill = 100 * min(each for each in (20, 50, 100) if 100 * each > one + two)
    aside = d.aside(f"The store is {d.number((3, 5), (3, 12))} blocks away.")
    return draft(
        f"{who.name} buys {count(number, thing)} for {dollars(price)} each and {count(number_too, other)} for "
        f"{dollars(price_too)} each. {aside}{who.He} pays with a {dollars(bill)} bill. "
        f"How many dollars of change does {who.he} get?",
        f"The {thing.many} cost {number} * {dollars(price)} = {dollars(one)}.",
        f"The {other.many} cost {number_too} * {dollars(price_too)} = {dollars(two)}.",
        f"Everything costs {dollars(one)} + {dollars(two)} = {dollars(one + two)}.",
        f"{who.name} gets {dollars(bill)} - {dollars(one + two)} = {dollars(bill - one - two)} of change.",
        answer=plain_dollars(bill - one - two),
    )


def seats_on_a_school_trip(d: Draw) -> Draft:
    buses, seats = d.number((2, 3), (2, 6)), d.number((10, 20), (35, 60))
    vans, van_seats = d.number((2, 4), (3, 9)), d.number((5, 8), (6, 12))
    one, two = buses * seats, vans * van_seats
    empty = d.number((2, 9), (4, 30))
    aside = d.aside(f"The museum is {d.number((20, 30), (25, 95))} miles away.")
    return draft(
        f"For a school trip there are {buses} buses with {seats} seats each and {vans} vans with {van_seats} seats "
        f"each. {aside}Of all these seats, {one + two - empty} are taken. How many seats are empty?",
        f"The buses have {buses} * {seats} = {one} seats.",
        f"The vans have {vans} * {van_seats} = {two} seats.",
        f"In all there are {one} + {two} = {one + two} seats.",
        f"So {one + two} - {one + two - empty} = {empty} seats are empty.",
        answer=empty,
    )


def three_together(d: Draw) -> Draft:
    (who, other, third), thing = d.people(3), d.pick(KEEPSAKES)
    number, times, more = d.number((2, 6), (12, 45)), d.number((2, 3), (3, 6)), d.number((2, 6), (7, 40))
    many = number * times
    most = many + more
    aside = d.aside(f"{who.name} is {d.number((7, 9), (7, 14))} years old.")
    how = "twice" if times == 2 else f"{times} times"
    return draft(
        f"{who.name} has {count(number, thing)}. {other.name} has {how} as many as {who.name}, and {third.name} has "
        f"{more} more than {other.name}. {aside}How many {thing.many} do the three of them have together?",
        f"{other.name} has {number} * {times} = {many} {thing.many}.",
        f"{third.name} has {many} + {more} = {most} {thing.many}.",
        f"{who.name} and {other.name} have {number} + {many} = {number + many} {thing.many}.",
        f"All three have {number + many} + {most} = {number + many + most} {thing.many}.",
        answer=number + many + most,
    )


def mowing_lawns(d: Draw) -> Draft:
    who, friend = d.people(2)
    lawns, pay = d.number((2, 5), (6, 18)), d.number((5, 10), (12, 25))
    earned, cost, gift = lawns * pay, d.number((2, 6), (15, 40)), d.number((5, 10), (12, 35))
    gift += (earned + gift - cost) % 2  # half of what is left is whole dollars
    left = earned + gift - cost
    aside = d.aside(f"A lawn takes {who.him} {d.number((30, 40), (30, 90), step=5)} minutes.")
    return draft(
        f"{who.name} mows {lawns} lawns for ${pay} each and gets a gift of ${gift} from {who.his} aunt. {aside}"
        f"{who.He} pays ${cost} for gasoline. Then {who.he} shares what is left equally with {friend.name}. "
        f"How many dollars does each of them get?",
        f"{who.name} earns {lawns} * ${pay} = ${earned}.",
        f"With the gift {who.he} has ${earned} + ${gift} = ${earned + gift}.",
        f"After paying for gasoline {who.he} has ${earned + gift} - ${cost} = ${left}.",
        f"Each of them gets ${left} / 2 = ${left // 2}.",
        answer=left // 2,
    )


def shared_trays(d: Draw) -> Draft:
    who, thing, part = d.person(), d.pick(BAKED), d.part()
    trays, boxes = d.number((2, 4), (3, 8)), d.number((2, 4), (3, 6))
    per_tray = part.denominator * boxes  # so that parts and boxes get whole ones
    total = trays * per_tray
    given = int(total * part)
    left = total - given
    aside = d.aside(f"The bakery opens at {d.number((6, 8), (5, 9))} o'clock.")
    return draft(
        f"{who.name} bakes {trays} trays of {thing.many} with {per_tray} on each tray. {aside}{who.He} gives "
        f"{part_of(part)} of the {thing.many} to {who.his} neighbors and packs the rest into {boxes} boxes, the "
        f"same number in each. How many {thing.many} are in each box?",
        f"{who.name} bakes {trays} * {per_tray} = {total} {thing.many}.",
        f"{who.He} gives away {total} * {part} = {given} of them.",
        f"So {total} - {given} = {left} are left.",
        f"Each box holds {left} / {boxes} = {left // boxes} {thing.many}.",
        answer=left // boxes,
    )


def miles_to_go(d: Draw) -> Draft:
    who = d.person()
    slow, slow_hours = d.number((20, 40), (35, 50), step=5), d.number((2, 3), (2, 6))
    fast, fast_hours = d.number((45, 60), (55, 75), step=5), d.number((2, 3), (2, 6))
    one, two = slow * slow_hours, fast * fast_hours
    rest = d.number((5, 25), (15, 180))
    aside = d.aside(f"{who.His} car is {d.number((2, 5), (2, 16))} years old.")
    return draft(
        f"{who.name} is on a trip of {one + two + rest} miles. {who.He} drives for {slow_hours} hours at {slow} "
        f"miles per hour, and then for {fast_hours} hours at {fast} miles per hour. {aside}"
        f"How many miles does {who.he} still have to go?",
        f"First {who.name} drives {slow_hours} * {slow} = {one} miles.",
        f"Then {who.he} drives {fast_hours} * {fast} = {two} miles.",
        f"So far that is {one} + {two} = {one + two} miles.",
        f"There are {one + two + rest} - {one + two} = {rest} miles to go.",
        answer=rest,
    )


def ways_to_school(d: Draw) -> Draft:
    who, percent, part = d.person(), d.percent(), d.part()
    students = d.number((100, 200), (300, 900), step=100)
    while (students * (100 - percent) // 100) % part.denominator:
        students += 100
    bus = students * percent // 100
    others = students - bus
    bike = int(others * part)
    aside = d.aside(f"The school has {d.number((10, 15), (12, 45))} classrooms.")
    return draft(
        f"{who.name}'s school has {students:,} students. {aside}Of all students, {percent}% come by bus. "
        f"Of the others, {part_of(part)} come by bike, and the rest walk. How many students walk to school?",
        f"The bus brings {students} * {percent}/100 = {bus} students.",
        f"The others are {students} - {bus} = {others} students.",
        f"The bike riders are {others} * {part} = {bike} students.",
        f"So {others} - {bike} = {others - bike} students walk.",
        answer=others - bike,
    )


def fence_and_budget(d: Draw) -> Draft:
    who = d.person()
    width = d.number((2, 6), (12, 30))
    length, price = width + d.number((1, 4), (3, 25)), d.number((2, 3), (3, 8))
    half = length + width
    cost = 2 * half * price
    rest = d.number((5, 20), (15, 150))
    aside = d.aside(f"The fence is {d.number((3, 4), (3, 6))} feet high.")
    return draft(
        f"{who.name} wants a fence all around a flower bed in the shape of a rectangle, which is {length} feet long "
        f"and {width} feet wide. {aside}A foot of fence costs ${price}. {who.name} has ${cost + rest}. "
        f"How many dollars does {who.he} have left after buying the fence?",
        f"One long and one short side are {length} + {width} = {half} feet.",
        f"All four sides are {half} * 2 = {2 * half} feet.",
        f"The fence costs {2 * half} * ${price} = ${cost}.",
        f"{who.name} has ${cost + rest} - ${cost} = ${rest} left.",
        answer=rest,
    )


def candles_for_sale(d: Draw) -> Draft:
    who = d.person()
    daily, days = d.number((3, 6), (6, 15)), d.number((3, 6), (7, 20))
    made = daily * days
    kept, price = d.number((2, 4), (5, 20)), d.number((2, 4), (3, 8))
    sold = made - kept
    taken = sold * price
    wax = d.number((3, 9), (12, 60))
    aside = d.aside(f"A candle burns for {d.number((5, 8), (5, 25))} hours.")
    return draft(
        f"{who.name} makes {daily} candles a day for {days} days. {aside}{who.He} keeps {kept} of the candles and "
        "sells the others "
        f"for ${price} each. The wax costs {who.him} ${wax}. How many dollars of profit does {who.he} make?",
        f"{who.name} makes {daily} * {days} = {made} candles.",
        f"{who.He} sells {made} - {kept} = {sold} of them.",
        f"{who.He} takes in {sold} * ${price} = ${taken}.",
        f"The profit is ${taken} - ${wax} = ${taken - wax}.",
        answer=taken - wax,
    )


def hours_of_practice(d: Draw) -> Draft:
    who = d.person()
    weekday = d.number((10, 20), (20, 45), step=5)
    saturday = d.number((10, 30), (20, 60), step=5)
    week = 5 * weekday + saturday
    # As few weeks as make whole hours, or twice as many.
    weeks = max(60 // gcd(60, week) * d.number((1, 1), (1, 2)), 2)
    aside = d.aside(f"{who.He} has played for {d.number((2, 3), (2, 9))} years.")
    return draft(
        f"{who.name} practices the violin for {weekday} minutes on each of five weekdays and for {saturday} minutes on "
        f"Saturday. {aside}How many hours does {who.he} practice in {weeks} weeks?",
        f"On weekdays {who.name} practices {weekday} * 5 = {week - saturday} minutes.",
        f"In a week that is {week - saturday} + {saturday} = {week} minutes.",
        f"In {weeks} weeks it is {week} * {weeks} = {week * weeks} minutes.",
        f"That is {week * weeks} / 60 = {week * weeks // 60} hours.",
        answer=week * weeks // 60,
    )


def last_game(d: Draw) -> Draft:
    who = d.person()
    target = d.number((6, 12), (18, 45))
    first, second, third = (target + d.number((-2, 1), (-9, 5)) for _ in range(3))
    needed = 4 * target - first - second - third
    aside = d.aside(f"A ticket for a game costs {dollars(100 * d.number((5, 9), (5, 30)))}.")
    return draft(
        f"{who.name}'s team scores {first}, {second} and {third} points in its first three games. {aside}The team "
        "wants an "
        f"average of {target} points over four games. How many points does it have to score in the fourth game?",
        f"An average of {target} over four games takes {target} * 4 = {target * 4} points.",
        f"In the first two games the team scores {first} + {second} = {first + second} points.",
        f"In the first three it scores {first + second} + {third} = {first + second + third} points.",
        f"It needs {target * 4} - {first + second + third} = {needed} points more.",
        answer=needed,
    )


TRAIN: tuple[Template, ...] = (
    two_kinds_and_change,
    seats_on_a_school_trip,
    three_together,
    mowing_lawns,
    shared_trays,
    miles_to_go,
    ways_to_school,
)
TEST: tuple[Template, ...] = (fence_and_budget, candles_for_sale, hours_of_practice, last_game)
