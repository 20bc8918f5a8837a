// The report page's style sheet.
#pragma once

namespace ballot {

// Colours: dark enough on white and light enough on near-black for 3:1; dashes tell the curves
// apart without them.
inline constexpr const char* kReportStyle = R"css(
:root{color-scheme:light dark;--page:#fbfbfa;--card:#fff;--ink:#1d2126;--soft:#5b636d;--edge:#dfe2e6;--grid:#e8eaed;
--c0:#1f5fbf;--c1:#c2410c;--c2:#0f7b5f;--c3:#8b35a8;--c4:#8a6d00;--c5:#0e7490;--c6:#b4235f;--c7:#5b6470;
--s0:#9aa3ad;--s1:#4f8fe6;--s2:#1f5fbf;--s3:#8b5fd0;--s4:#e3a008;--s5:#d9480f;--s6:#b4235f;--s7:#e68fb3;--s8:#12a07a;
--s9:#6bc4a6;--s10:#cfd4da;--bad:#b42318;--heat:#b42318;--good:#0f7b5f}
@media(prefers-color-scheme:dark){:root{--page:#14171a;--card:#1b1f24;--ink:#e8eaed;--soft:#a4adb8;--edge:#2e343b;
--grid:#2a3037;--c0:#74aaff;--c1:#ff9a5c;--c2:#4ecfa6;--c3:#d393ee;--c4:#e0c04a;--c5:#57c7e6;--c6:#ff8ab5;--c7:#b3bcc7;
--s0:#79828c;--s1:#8fbaff;--s2:#4a86e0;--s3:#a884e8;--s4:#f0b93a;--s5:#ff8552;--s6:#e0568f;--s7:#f2b3cc;--s8:#35b98f;
--s9:#8fdcc2;--s10:#4b535c;--bad:#ff8a80;--heat:#d63f33;--good:#4ecfa6}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,"Segoe UI","DejaVu Sans",sans-serif}
main{max-width:1400px;margin:0 auto;padding:28px 24px 48px}
h1{font-size:1.55rem;margin:0}h2{font-size:1.2rem;margin:36px 0 12px;overflow-wrap:anywhere}h3{font-size:1rem;margin:0 0 8px}
.lead{color:var(--soft);margin:2px 0 20px;overflow-wrap:anywhere}
.grid2{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,480px),1fr));gap:18px}
.card{background:var(--card);border:1px solid var(--edge);border-radius:10px;padding:16px 18px;min-width:0}
.scroll{overflow-x:auto}.soft{color:var(--soft);font-size:13px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:6px 18px 6px 0;border-bottom:1px solid var(--edge);vertical-align:top}
tbody tr:last-child>*{border-bottom:0}
th[scope=row]{font-weight:400;color:var(--soft);min-width:9em}th[scope=col]{overflow-wrap:anywhere;min-width:8em}
td{overflow-wrap:anywhere;min-width:8em}.strong td{font-weight:650}.heat td{min-width:0;padding:6px 10px;text-align:right}
.heat th[scope=col]{min-width:0;white-space:nowrap}.heat th+th[scope=col]{text-align:right;padding-right:10px}
.good{color:var(--good);font-weight:650}.bad{color:var(--bad);font-weight:650}
svg{display:block;width:100%;height:auto}
.wide{grid-column:1/-1}.wide svg{max-width:860px}
svg text{font:12px system-ui,"Segoe UI","DejaVu Sans",sans-serif;fill:var(--soft)}
svg .note{font-size:11px}.middle{text-anchor:middle}.end{text-anchor:end}
.grid{stroke:var(--grid);fill:none}.axis{stroke:var(--soft);fill:none}
.reference{stroke:var(--soft);stroke-dasharray:3 4;fill:none}
.line{fill:none;stroke-width:1.9;stroke-linejoin:round;stroke-linecap:round}.thin{stroke-width:1.1;opacity:.85}
.point{stroke:var(--card);stroke-width:1.3}
.line.c0{stroke:var(--c0)}.line.c1{stroke:var(--c1);stroke-dasharray:7 4}.line.c2{stroke:var(--c2);stroke-dasharray:2 4}
.line.c3{stroke:var(--c3);stroke-dasharray:9 3 2 3}.line.c4{stroke:var(--c4);stroke-dasharray:14 4}
.line.c5{stroke:var(--c5);stroke-dasharray:5 3 1 3 1 3}.line.c6{stroke:var(--c6);stroke-dasharray:4 4}
.line.c7{stroke:var(--c7);stroke-dasharray:1 5}
.point.c0{fill:var(--c0)}.point.c1{fill:var(--c1)}.point.c2{fill:var(--c2)}.point.c3{fill:var(--c3)}
.point.c4{fill:var(--c4)}.point.c5{fill:var(--c5)}.point.c6{fill:var(--c6)}.point.c7{fill:var(--c7)}
.point.c1,.point.c3,.point.c5,.point.c7{fill:none;stroke-width:2}.point.c1{stroke:var(--c1)}.point.c3{stroke:var(--c3)}
.point.c5{stroke:var(--c5)}.point.c7{stroke:var(--c7)}
.area{stroke:none}.s0{fill:var(--s0)}.s1{fill:var(--s1)}.s2{fill:var(--s2)}.s3{fill:var(--s3)}
.s4{fill:var(--s4)}.s5{fill:var(--s5)}.s6{fill:var(--s6)}.s7{fill:var(--s7)}.s8{fill:var(--s8)}.s9{fill:var(--s9)}
.s10{fill:var(--s10)}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:4px 18px;margin:8px 0 0;padding:0;font-size:13px}
.legend li{display:flex;align-items:center;gap:7px;overflow-wrap:anywhere}.legend svg{width:auto;flex:none}.legend span{min-width:0}
.swatch{width:12px;height:12px;flex:none}
.axis-name{margin:0;font-size:12px;color:var(--soft);overflow-wrap:anywhere}.below{text-align:center}
.mark{fill:var(--card);stroke-width:1.7;stroke-linejoin:round}.tick{stroke-width:2.4}.mark.trouble{fill:var(--bad)}
.mark{stroke:var(--ink)}.m0{stroke:var(--c0)}.m1{stroke:var(--c1)}.m2{stroke:var(--c2)}.m3{stroke:var(--c3)}
.m4{stroke:var(--c4)}.m5{stroke:var(--c5)}.m6{stroke:var(--c6)}.m7{stroke:var(--c7)}
.bars{display:grid;gap:6px}.bar-row{display:grid;grid-template-columns:minmax(90px,22%) 1fr minmax(72px,150px);gap:12px;align-items:center}
.bar-name,.bar-text{overflow-wrap:anywhere;min-width:0}.bar-track{display:flex;min-width:0}.bar-track i{display:block;height:16px;min-width:1px}
.bar-row.minor{font-size:13px;color:var(--soft)}.bar-row.minor .bar-name{padding-left:14px}.bar-row.minor i{height:8px;opacity:.6}
.b0{background:var(--c0)}.b1{background:var(--c1)}.b2{background:var(--c2)}.b3{background:var(--c3)}.b4{background:var(--c4)}
.b5{background:var(--c5)}.b6{background:var(--c6)}.b7{background:var(--c7)}
i.s0{background:var(--s0)}i.s1{background:var(--s1)}i.s2{background:var(--s2)}i.s3{background:var(--s3)}i.s4{background:var(--s4)}
i.s5{background:var(--s5)}i.s6{background:var(--s6)}i.s7{background:var(--s7)}i.s8{background:var(--s8)}
.events td{min-width:5em}.events td:first-child{white-space:nowrap}.events .detail{min-width:14em;width:60%}
@media(max-width:560px){main{padding:18px 10px 32px}.card{padding:12px}svg text{font-size:17px}svg .note{font-size:15px}
.bar-row{grid-template-columns:minmax(70px,30%) 1fr minmax(64px,84px);gap:8px;font-size:13px}}
.small,.empty{color:var(--soft);font-size:13px;margin:8px 0 0}
details{margin-top:18px}summary{cursor:pointer;color:var(--soft)}
@media print{.card{break-inside:avoid}}
)css";

}  // namespace ballot
